from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semires_trainer.data.images import decode
from semires_trainer.errors import DataError
from semires_trainer.proposals.felzenszwalb import FelzenszwalbProposer
from semires_trainer.proposals.generate import (
    GenerateReport,
    ImageInput,
    ImageReader,
    generate_missing,
    hash_images,
    key_of,
)
from semires_trainer.proposals.masks import Proposal, sha256_of
from semires_trainer.proposals.store import ProposalStore

Draw = Callable[..., bytes]


class Brightness:
    """A proposer with one mask, the bright pixels; none if there are none."""

    name = "Brightness"
    weights_sha256 = ""

    def parameters(self) -> dict[str, Any]:
        return {"above": 128}

    def propose(self, image_HW3: NDArray[np.uint8], keys: tuple[str, ...] = ()) -> list[Proposal]:
        bright = image_HW3[..., 0] > 128
        return [Proposal.from_mask(bright)] if bright.any() else []


class Album:
    """Images in memory that count how often they are read."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.reads: list[str] = []

    def read(self, name: str) -> bytes:
        self.reads.append(name)
        if name not in self.files:
            raise DataError(f"{name} is missing")
        return self.files[name]

    def inputs(self) -> list[ImageInput]:
        return [ImageInput(file_name=name, sha256=sha256_of(content)) for name, content in self.files.items()]

    @property
    def reader(self) -> ImageReader:
        return ImageReader(read=self.read, decode=decode)


@pytest.fixture
def album(image_bytes: Draw) -> Album:
    return Album({f"{number}.png": image_bytes(number) for number in range(6)})


@pytest.fixture
def open_store(tmp_path: Path) -> Callable[[], ProposalStore]:
    return lambda: ProposalStore(tmp_path, key_of(Brightness()))


def test_every_image_gets_a_record_and_the_second_run_makes_none(
    album: Album, open_store: Callable[[], ProposalStore]
) -> None:
    first = generate_missing(album.inputs(), Brightness(), open_store(), reader=album.reader)
    album.reads.clear()
    second = generate_missing(album.inputs(), Brightness(), open_store(), reader=album.reader)

    assert first == GenerateReport(images=6, present=0, generated=6, proposals=6)
    assert second == GenerateReport(images=6, present=6, generated=0, proposals=0)
    assert album.reads == []


def test_an_image_shared_by_many_refs_is_done_once(album: Album, open_store: Callable[[], ProposalStore]) -> None:
    report = generate_missing(album.inputs() * 3, Brightness(), open_store(), reader=album.reader)

    assert (report.images, report.generated, len(album.reads)) == (6, 6, 6)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_the_images_without_overlap_whatever_each_has_seen(
    album: Album, open_store: Callable[[], ProposalStore], world_size: int
) -> None:
    reports = [
        generate_missing(
            album.inputs(), Brightness(), open_store(), reader=album.reader, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]

    assert sum(report.generated for report in reports) == 6
    assert not open_store().missing(image.sha256 for image in album.inputs())


def test_an_image_without_proposals_is_done(image_bytes: Draw, open_store: Callable[[], ProposalStore]) -> None:
    album = Album({"dark.png": image_bytes(52)})
    store = open_store()

    report = generate_missing(album.inputs(), Brightness(), store, reader=album.reader)

    assert (report.generated, report.proposals) == (1, 0)
    assert len(store.get(album.inputs()[0].sha256)) == 0


def test_what_was_done_before_an_error_is_kept(album: Album, open_store: Callable[[], ProposalStore]) -> None:
    inputs = sorted(album.inputs(), key=lambda image: image.sha256)
    content = album.files.pop(inputs[3].file_name)

    with pytest.raises(DataError, match=f"{inputs[3].file_name} is missing"):
        generate_missing(inputs, Brightness(), open_store(), reader=album.reader)
    kept = len(open_store())
    album.files[inputs[3].file_name] = content
    report = generate_missing(inputs, Brightness(), open_store(), reader=album.reader)

    assert (kept, report.present, report.generated) == (3, 3, 3)


def test_an_image_that_changed_since_it_was_hashed_is_an_error(
    album: Album, image_bytes: Draw, open_store: Callable[[], ProposalStore]
) -> None:
    inputs = album.inputs()
    album.files["2.png"] = image_bytes(9)

    with pytest.raises(DataError, match=r"2\.png changed while the program was running"):
        generate_missing(inputs, Brightness(), open_store(), reader=album.reader)


def fault_of(album: Album, image: ImageInput, fault: str) -> ImageInput:
    """Make one image bad; returns how it is asked for."""
    if fault == "gone":
        del album.files[image.file_name]
    elif fault == "changed":
        album.files[image.file_name] += b"x"
    elif fault == "truncated":
        album.files[image.file_name] = album.files[image.file_name][:50]
        return replace(image, sha256=sha256_of(album.files[image.file_name]))
    return replace(image, size=(40, 56)) if fault == "turned" else image


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param("gone", "2.png is missing", id="gone"),
        pytest.param("changed", "2.png changed while the program was running", id="changed"),
        pytest.param("truncated", "2.png can't be decoded", id="truncated"),
        pytest.param("turned", "2.png has 56 x 40 pixels, its annotation says 40 x 56", id="turned"),
    ],
)
def test_a_bad_image_is_told_and_gets_no_record(
    album: Album, tmp_path: Path, workers: int, fault: str, reason: str
) -> None:
    proposer = FelzenszwalbProposer()
    inputs = album.inputs()
    inputs[2] = fault_of(album, inputs[2], fault)
    told: dict[str, str] = {}
    reader = ImageReader(read=album.read, decode=decode, on_bad=told.__setitem__)
    store = ProposalStore(tmp_path, key_of(proposer))

    report = generate_missing(inputs, proposer, store, reader=reader, workers=workers)

    assert list(told) == ["2.png"]
    assert reason in told["2.png"]
    assert (report.images, report.generated, report.bad) == (6, 5, 1)
    assert store.missing(image.sha256 for image in inputs) == [inputs[2].sha256]


def test_a_fault_of_the_generator_is_no_bad_image(album: Album, tmp_path: Path) -> None:
    class Broken(Brightness):
        def propose(self, image_HW3: NDArray[np.uint8], keys: tuple[str, ...] = ()) -> list[Proposal]:
            raise DataError("7.json is damaged")

    told: dict[str, str] = {}
    reader = ImageReader(read=album.read, decode=decode, on_bad=told.__setitem__)
    with pytest.raises(DataError, match=r"7\.json is damaged"):
        generate_missing(album.inputs(), Broken(), ProposalStore(tmp_path, key_of(Brightness())), reader=reader)

    assert told == {}


def test_what_is_done_is_kept_when_there_are_too_many_bad_images(
    album: Album, open_store: Callable[[], ProposalStore]
) -> None:
    inputs = sorted(album.inputs(), key=lambda image: image.sha256)
    del album.files[inputs[4].file_name]

    def refuse(file_name: str, reason: str) -> None:
        raise DataError("too many")

    reader = ImageReader(read=album.read, decode=decode, on_bad=refuse)
    with pytest.raises(DataError, match="too many"):
        generate_missing(inputs, Brightness(), open_store(), reader=reader)

    assert len(open_store()) == 4


def test_a_damaged_image_is_named(album: Album, open_store: Callable[[], ProposalStore]) -> None:
    album.files["2.png"] = album.files["2.png"][:50]

    with pytest.raises(DataError, match=r"2\.png"):
        generate_missing(album.inputs(), Brightness(), open_store(), reader=album.reader)


def test_a_store_of_another_generator_is_refused(album: Album, tmp_path: Path) -> None:
    store = ProposalStore(tmp_path, key_of(FelzenszwalbProposer()))

    with pytest.raises(DataError, match="another generator than Brightness"):
        generate_missing(album.inputs(), Brightness(), store, reader=album.reader)


def test_progress_counts_the_images_of_this_rank(album: Album, open_store: Callable[[], ProposalStore]) -> None:
    seen: list[tuple[int, int]] = []

    generate_missing(
        album.inputs(),
        Brightness(),
        open_store(),
        reader=album.reader,
        world_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )

    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_worker_processes_write_the_same_shard_as_one_process(album: Album, tmp_path: Path) -> None:
    proposer = FelzenszwalbProposer(min_size=20)
    stores = [ProposalStore(tmp_path / name, key_of(proposer)) for name in ("one", "two")]

    for workers, store in zip((0, 2), stores, strict=True):
        generate_missing(album.inputs(), proposer, store, reader=album.reader, workers=workers)

    assert stores[0].shard_names() == stores[1].shard_names()
    assert len(stores[1]) == 6


def test_an_error_in_a_worker_process_names_the_image(album: Album, tmp_path: Path) -> None:
    proposer = FelzenszwalbProposer()
    album.files["2.png"] = album.files["2.png"][:50]
    store = ProposalStore(tmp_path, key_of(proposer))

    with pytest.raises(DataError, match=r"2\.png"):
        generate_missing(album.inputs(), proposer, store, reader=album.reader, workers=1)


def test_images_are_hashed_once_each(album: Album) -> None:
    digests = hash_images(["1.png", "0.png", "1.png"], album.read)

    assert digests == {name: sha256_of(album.files[name]) for name in ("1.png", "0.png")}
    assert album.reads == ["1.png", "0.png"]


def test_an_image_that_cannot_be_hashed_is_told_and_left_out(album: Album) -> None:
    told: dict[str, str] = {}

    digests = hash_images(["1.png", "absent.png"], album.read, on_bad=told.__setitem__)

    assert list(digests) == ["1.png"]
    assert told == {"absent.png": "absent.png is missing"}
