from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import semires_trainer
from semires_trainer.errors import DataError
from semires_trainer.proposals.masks import Proposal
from semires_trainer.proposals.store import ProposalStore, StoreKey

Name = Callable[[int], str]


def masks_of(seed: int, count: int = 3, height: int = 12, width: int = 17) -> list[Proposal]:
    masks = np.random.default_rng(seed).random((count, height, width)) < 0.4
    return [
        Proposal.from_mask(mask, predicted_iou=0.9 - 0.1 * number, stability=0.5) for number, mask in enumerate(masks)
    ]


def test_a_record_comes_back_as_it_was_added(store: ProposalStore, name_of: Name) -> None:
    proposals = masks_of(0)
    writer = store.writer()
    writer.add(name_of(0), proposals, height=12, width=17)
    writer.flush()
    store.refresh()

    found = store.get(name_of(0))

    masks = found.masks_PHW()
    assert (found.height, found.width, len(found)) == (12, 17, 3)
    assert [rle["counts"] for rle in found.rles] == [proposal.rle["counts"] for proposal in proposals]
    assert found.areas_P.tolist() == masks.sum(axis=(1, 2)).tolist()
    assert found.scores_P2[:, 0].tolist() == pytest.approx([0.9, 0.8, 0.7])
    rows, columns = np.flatnonzero(masks[0].any(1)), np.flatnonzero(masks[0].any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    assert found.boxes_P4[0].tolist() == box


@pytest.mark.parametrize(
    ("count", "height", "width"),
    [
        pytest.param(0, 5, 7, id="no-proposals"),
        pytest.param(1, 1, 1, id="one-pixel"),
        pytest.param(1, 1, 3000, id="one-row"),
        pytest.param(2, 3000, 1, id="one-column"),
    ],
)
def test_extreme_records_come_back(store: ProposalStore, name_of: Name, count: int, height: int, width: int) -> None:
    writer = store.writer()
    writer.add(name_of(0), masks_of(1, count, height, width), height=height, width=width)
    writer.flush()
    store.refresh()

    assert store.contains(name_of(0))
    assert store.get(name_of(0)).masks_PHW().shape == (count, height, width)


def test_missing_lists_each_image_without_a_record_once_in_the_order_given(store: ProposalStore, name_of: Name) -> None:
    writer = store.writer()
    writer.add(name_of(1), [], height=4, width=4)
    writer.flush()
    store.refresh()

    assert store.missing([name_of(3), name_of(1), name_of(0), name_of(3)]) == [name_of(3), name_of(0)]


def test_an_image_without_a_record_is_named(store: ProposalStore, name_of: Name) -> None:
    with pytest.raises(DataError, match=rf"{name_of(0)[:12]}.*has no proposals.*semires propose"):
        store.get(name_of(0))


def test_a_full_shard_is_published_without_flush(store: ProposalStore, name_of: Name) -> None:
    writer = store.writer(images_per_shard=2)
    for number in range(5):
        writer.add(name_of(number), masks_of(number), height=12, width=17)
    store.refresh()

    assert (len(store), len(store.shard_names()), len(writer)) == (4, 2, 1)


def test_two_writers_may_do_the_same_image_and_every_reader_sees_the_same_record(
    store: ProposalStore, name_of: Name
) -> None:
    for seed in (1, 2):
        writer = store.writer()
        writer.add(name_of(0), masks_of(seed, count=seed), height=12, width=17)
        writer.flush()
    store.refresh()
    other = ProposalStore(store.folder.parent, store.key)

    assert len(store.shard_names()) == 2
    assert len(store) == 1
    assert store.get(name_of(0)).rles == other.get(name_of(0)).rles


def test_writing_the_same_records_again_adds_no_file(store: ProposalStore, name_of: Name) -> None:
    for _ in range(2):
        writer = store.writer()
        writer.add(name_of(0), masks_of(0), height=12, width=17)
        writer.add(name_of(1), masks_of(1), height=12, width=17)
        writer.flush()

    assert len(list(store.folder.glob("*.safetensors"))) == 1


def test_a_mask_of_another_size_than_its_image_is_refused(store: ProposalStore, name_of: Name) -> None:
    with pytest.raises(DataError, match=r"a proposal has size \[12, 17\], its image \[12, 16\]"):
        store.writer().add(name_of(0), masks_of(0), height=12, width=16)


def test_files_that_are_still_being_written_are_not_seen(store: ProposalStore, name_of: Name) -> None:
    writer = store.writer()
    writer.add(name_of(0), masks_of(0), height=12, width=17)
    path = writer.flush()
    assert path is not None
    path.rename(path.with_name(f".{path.name}.0123.tmp"))
    store.refresh()

    assert len(store) == 0


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        pytest.param(lambda content: content[:-7], "header tells of", id="cut-short"),
        pytest.param(lambda content: content[:5], "header is longer", id="only-five-bytes"),
        pytest.param(lambda content: b"", "empty file", id="empty"),
        pytest.param(lambda content: b"\xff" * 8 + content[8:], "header is longer", id="length"),
        pytest.param(lambda content: content[:9] + b"~" + content[10:], "JSONDecodeError", id="header"),
        pytest.param(lambda content: content.replace(b'"areas"', b'"arias"'), "areas", id="array-missing"),
    ],
)
def test_a_damaged_shard_is_named_when_it_is_opened(
    store: ProposalStore, name_of: Name, damage: Callable[[bytes], bytes], complaint: str
) -> None:
    writer = store.writer()
    writer.add(name_of(0), masks_of(0), height=12, width=17)
    path = writer.flush()
    assert path is not None
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(DataError, match=rf"{path.name} is damaged.*{complaint}.*Delete this file"):
        ProposalStore(store.folder.parent, store.key)


def test_verify_finds_a_flipped_bit(store: ProposalStore, name_of: Name) -> None:
    writer = store.writer()
    writer.add(name_of(0), masks_of(0), height=12, width=17)
    path = writer.flush()
    assert path is not None
    store.refresh()
    store.verify()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"is damaged \(its sha256 is not its name\)"):
        ProposalStore(store.folder.parent, store.key).verify()


def test_the_folder_tells_the_parameters(store: ProposalStore, key: StoreKey) -> None:
    store.writer()

    written = json.loads((store.folder / "generator.json").read_text())
    assert written == {
        "generator": "Test",
        "parameters": {"scale": 1.5, "levels": [1, 2]},
        "weights_sha256": "",
    }
    assert store.folder.name == f"Test-{key.digest[:16]}"


def test_a_folder_of_other_parameters_is_refused(store: ProposalStore, tmp_path: Path) -> None:
    store.writer()
    (store.folder / "generator.json").write_text('{"generator": "Other"}')

    with pytest.raises(DataError, match="other parameters than those in use"):
        ProposalStore(tmp_path / "store", store.key)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(StoreKey(generator="Else", parameters={"a": 1}), id="generator"),
        pytest.param(StoreKey(generator="Test", parameters={"a": 2}), id="parameter"),
        pytest.param(StoreKey(generator="Test", parameters={"a": 1}, weights_sha256="00"), id="weights"),
    ],
)
def test_the_key_depends_on_everything(other: StoreKey) -> None:
    assert StoreKey(generator="Test", parameters={"a": 1}).digest != other.digest


def test_the_key_does_not_depend_on_the_order_of_parameters() -> None:
    one = StoreKey(generator="Test", parameters={"a": 1, "b": 2})
    other = StoreKey(generator="Test", parameters={"b": 2, "a": 1})

    assert one.digest == other.digest


def test_a_pickled_store_reads_the_same(store: ProposalStore, name_of: Name) -> None:
    writer = store.writer()
    writer.add(name_of(0), masks_of(0), height=12, width=17)
    writer.flush()
    store.refresh()

    again = pickle.loads(pickle.dumps(store))

    assert again.get(name_of(0)).rles == store.get(name_of(0)).rles


_ENDLESS_WRITER = """
import hashlib, itertools, sys
from pathlib import Path
import numpy as np
from semires_trainer.proposals.masks import Proposal
from semires_trainer.proposals.store import ProposalStore, StoreKey

store = ProposalStore(Path(sys.argv[1]), StoreKey(generator="Test", parameters={}))
writer = store.writer(images_per_shard=3)
for number in itertools.count():
    masks = np.random.default_rng(number).random((40, 64, 64)) < 0.5
    name = hashlib.sha256(str(number).encode()).hexdigest()
    writer.add(name, [Proposal.from_mask(mask) for mask in masks], height=64, width=64)
"""


def test_a_killed_writer_leaves_whole_shards_only(tmp_path: Path) -> None:
    package = Path(semires_trainer.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _ENDLESS_WRITER, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(package)}
    )
    while len(list(tmp_path.glob("*/*.safetensors"))) < 5 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()

    store = ProposalStore(tmp_path, StoreKey(generator="Test", parameters={}))
    store.verify()
    assert len(store) == 3 * len(store.shard_names()) >= 15
