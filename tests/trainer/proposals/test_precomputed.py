from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from semires_trainer.errors import DataError
from semires_trainer.proposals.masks import decode_masks, encode_mask
from semires_trainer.proposals.precomputed import PrecomputedProposer, decode_official, encode_official


def blank(height: int = 4, width: int = 5) -> NDArray[np.uint8]:
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize("index", range(5))
def test_official_files_decode_to_the_official_masks(tmp_path: Path, proposal_files: Any, index: int) -> None:
    (tmp_path / "17.json").write_text(json.dumps(proposal_files.images[index]["rle"]))
    height, width = proposal_files.size(index)

    proposals = PrecomputedProposer(folder=tmp_path).propose(blank(height, width), ("17",))

    masks = decode_masks([proposal.rle for proposal in proposals], height=height, width=width)
    assert np.array_equal(masks, proposal_files.masks(index))


@pytest.mark.parametrize("index", range(5))
def test_masks_encode_to_the_official_files(proposal_files: Any, index: int) -> None:
    encoded = [encode_official(mask) for mask in proposal_files.masks(index)]

    assert encoded == proposal_files.images[index]["rle"]


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))))
@settings(deadline=None, max_examples=60)
def test_the_round_trip_is_exact(mask_HW: NDArray[np.bool_]) -> None:
    height, width = mask_HW.shape

    rle = decode_official(encode_official(mask_HW), where="test", height=height, width=width)

    assert rle == encode_mask(mask_HW)


@pytest.mark.parametrize(
    ("counts", "foreground"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([1, 20], list(range(20)), id="everything"),
        pytest.param([3, 2, 5, 4], [2, 3, 4, 5, 6, 7], id="runs-that-touch"),
        pytest.param([1, 1, 2, 1, 3, 1], [0, 1, 2], id="three-that-touch"),
        pytest.param([3, 0, 7, 1], [6], id="empty-run"),
        pytest.param([20, 1], [19], id="last-pixel"),
    ],
)
def test_odd_but_valid_runs_are_read(counts: list[int], foreground: list[int]) -> None:
    rle = decode_official({"counts": counts, "size": [4, 5]}, where="test", height=4, width=5)

    mask = decode_masks([rle], height=4, width=5)[0]
    assert np.flatnonzero(mask.ravel(order="F")).tolist() == foreground
    assert rle == encode_mask(mask)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        pytest.param({"counts": [20, 2], "size": [4, 5]}, "outside the image of 20 pixels", id="too-long"),
        pytest.param({"counts": [0, 2], "size": [4, 5]}, "outside", id="starts-count-from-1"),
        pytest.param({"counts": [3, 4, 5, 2], "size": [4, 5]}, "overlaps", id="overlap"),
        pytest.param({"counts": [9, 1, 3, 1], "size": [4, 5]}, "overlaps", id="backwards"),
        pytest.param({"counts": [1, 2, 3], "size": [4, 5]}, "start and length pairs", id="odd"),
        pytest.param({"counts": [1, 2.5], "size": [4, 5]}, "start and length pairs", id="fraction"),
        pytest.param({"counts": [1, True], "size": [4, 5]}, "start and length pairs", id="boolean"),
        pytest.param({"counts": [1, 10**30], "size": [4, 5]}, "start and length pairs", id="huge"),
        pytest.param({"counts": "5;2", "size": [4, 5]}, "start and length pairs", id="coco-rle"),
        pytest.param({"counts": [1, 2], "size": [5, 4]}, r"is \[5, 4\], its image has \[4, 5\]", id="size"),
        pytest.param([1, 2], "start and length pairs", id="list"),
    ],
)
def test_bad_masks_are_named(tmp_path: Path, entry: object, complaint: str) -> None:
    (tmp_path / "3.json").write_text(json.dumps([{"counts": [1, 2], "size": [4, 5]}, entry]))

    with pytest.raises(DataError, match=rf"3\.json, mask 1: .*{complaint}"):
        PrecomputedProposer(folder=tmp_path).propose(blank(), ("3",))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("[", "is not JSON", id="cut-short"),
        pytest.param('{"a": 1}', "must hold a list of masks, it holds a dict", id="object"),
        pytest.param("\x00", "is not JSON", id="binary"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "3.json").write_text(text)

    with pytest.raises(DataError, match=rf"3\.json {complaint}"):
        PrecomputedProposer(folder=tmp_path).propose(blank(), ("3",))


def test_a_file_of_no_masks_gives_no_proposals(tmp_path: Path) -> None:
    (tmp_path / "3.json").write_text("[]")

    assert PrecomputedProposer(folder=tmp_path).propose(blank(), ("3",)) == []


def test_any_file_of_the_image_will_do(tmp_path: Path) -> None:
    (tmp_path / "8.json").write_text('[{"counts": [1, 2], "size": [4, 5]}]')

    assert len(PrecomputedProposer(folder=tmp_path).propose(blank(), ("7", "8", "9"))) == 1


@pytest.mark.parametrize(
    "other", ['[{"size": [4, 5], "counts": [1, 2]}]', '[{"counts":[1,2],"size":[4,5]}]'], ids=["order", "spaces"]
)
def test_files_that_say_the_same_agree(tmp_path: Path, other: str) -> None:
    (tmp_path / "7.json").write_text('[{"counts": [1, 2], "size": [4, 5]}]')
    (tmp_path / "8.json").write_text(other)

    assert len(PrecomputedProposer(folder=tmp_path).propose(blank(), ("7", "8"))) == 1


def test_files_of_one_image_that_differ_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "7.json").write_text('[{"counts": [1, 2], "size": [4, 5]}]')
    (tmp_path / "8.json").write_text('[{"counts": [1, 3], "size": [4, 5]}]')

    with pytest.raises(DataError, match=r"7\.json and .*8\.json belong to one image"):
        PrecomputedProposer(folder=tmp_path).propose(blank(), ("7", "8"))


def test_an_image_without_a_file_is_an_error_that_names_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for 7\.json, 8\.json.*keyedBy"):
        PrecomputedProposer(folder=tmp_path).propose(blank(), ("7", "8"))


def test_other_files_are_another_generator(tmp_path: Path) -> None:
    (tmp_path / "7.json").write_text("[]")
    first = PrecomputedProposer(folder=tmp_path).parameters()
    again = PrecomputedProposer(folder=tmp_path).parameters()
    (tmp_path / "8.json").write_text("[]")
    more = PrecomputedProposer(folder=tmp_path).parameters()

    assert first == again != more


@pytest.mark.parametrize("folder", ["absent", "."], ids=["absent", "empty"])
def test_a_folder_without_files_is_an_error(tmp_path: Path, folder: str) -> None:
    with pytest.raises(DataError, match=r"holds no \.json files"):
        PrecomputedProposer(folder=tmp_path / folder).parameters()
