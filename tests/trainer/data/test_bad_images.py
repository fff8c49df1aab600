"""A bad image is counted once, on all processes of a node, and another sample takes its place: always the same one."""

from __future__ import annotations

import io
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from semires_trainer.data.bad_images import BadImages, TooManyBadImages
from semires_trainer.data.custom import load_custom
from semires_trainer.data.datasets import EvalDataset, Inputs, LabeledDataset, UnlabeledDataset, evaluation_pairs
from semires_trainer.data.images import ImageSource
from semires_trainer.data.loader import load_batches
from semires_trainer.data.pictures import BadImageError, PictureLoader, is_usable
from semires_trainer.data.sampling import Address, AddressSampler, EndlessStream
from semires_trainer.data.tokenizer import Tokenizer
from semires_trainer.errors import DataError, InfrastructureError
from semires_trainer.refine.packed import ProposalBatch

from .conftest import DATA, custom_document, jpeg_bytes

SIZE = 32
IMAGES = 12


@dataclass
class Records:
    """A proposal source without masks that knows all images but some."""

    unknown: tuple[str, ...] = ()

    def contains(self, image_sha256: str) -> bool:
        return image_sha256 not in self.unknown

    def load(self, image_sha256: str) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((0, SIZE, SIZE // 8), np.uint8), np.zeros(0, np.int32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One image for each of twelve refs, so that a place is an image."""
    path = tmp_path / "images"
    path.mkdir()
    for key in range(IMAGES):
        (path / f"{key}.jpg").write_bytes(jpeg_bytes(32, 24, seed=key))
    return path


@pytest.fixture
def bad(tmp_path: Path) -> BadImages:
    return BadImages(folder=tmp_path / ".run" / "bad-images", limit=3)


@pytest.fixture
def inputs(write_custom: Callable[[dict[str, Any]], Path], folder: Path, bad: BadImages) -> Inputs:
    document = custom_document()
    annotation = document["annotations"][0]
    document["images"] = [
        {"id": key, "file_name": f"{key}.jpg", "height": 24, "width": 32, "split": "train"} for key in range(IMAGES)
    ]
    document["annotations"] = [{**annotation, "id": 10 + key, "image_id": key} for key in range(IMAGES)]
    return Inputs(
        dataset=load_custom("Custom", write_custom(document)),
        pictures=PictureLoader(ImageSource(folder), size=SIZE),
        tokenizer=Tokenizer(DATA / "bert-base-uncased-vocab.txt", 20),
        bad_images=bad,
    )


@pytest.fixture
def labeled(inputs: Inputs) -> LabeledDataset:
    return LabeledDataset(inputs=inputs, refs=inputs.dataset.refs, seed=0)


@pytest.fixture
def unlabeled(inputs: Inputs) -> UnlabeledDataset:
    return UnlabeledDataset(inputs=inputs, refs=inputs.dataset.refs, seed=0, proposals=Records(), with_truth=True)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def turn(path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 32)).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue())


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FAULTS = [
    pytest.param(Path.unlink, "is not in", id="gone"),
    pytest.param(make_folder, "is not in", id="a-folder"),
    pytest.param(truncate, "can't be decoded", id="truncated"),
    pytest.param(lambda path: path.write_bytes(b""), "is not an image", id="empty"),
    pytest.param(lambda path: path.write_text("<html>Forbidden</html>"), "is not an image", id="error-page"),
    pytest.param(turn, "24 x 32 pixels, its annotation says 32 x 24", id="turned"),
]


@pytest.mark.parametrize("kind", ["labeled", "unlabeled"])
@pytest.mark.parametrize(("damage", "reason"), FAULTS)
def test_a_bad_image_is_noted_and_another_sample_takes_its_place(
    request: pytest.FixtureRequest,
    folder: Path,
    bad: BadImages,
    kind: str,
    damage: Callable[[Path], object],
    reason: str,
) -> None:
    dataset = request.getfixturevalue(kind)
    damage(folder / "5.jpg")

    sample = dataset[Address(epoch=0, index=5)]

    place = int(sample["ref"])
    assert place != 5
    assert sample["mask"].any()
    assert sample["expression"] in dataset.refs[place].expressions
    assert bad.names() == ["5.jpg"]
    assert reason in bad.reasons()["5.jpg"]


def test_samples_of_good_images_are_those_without_any_bad_one(folder: Path, unlabeled: UnlabeledDataset) -> None:
    addresses = [Address(epoch=0, index=index) for index in range(IMAGES) if index != 5]
    before = [unlabeled[address]["strong"] for address in addresses]
    truncate(folder / "5.jpg")
    unlabeled[Address(epoch=0, index=5)]

    assert all(torch.equal(one, unlabeled[address]["strong"]) for one, address in zip(before, addresses, strict=True))


def test_replacements_are_spread_over_the_others_and_change_with_the_epoch(
    folder: Path, unlabeled: UnlabeledDataset
) -> None:
    truncate(folder / "5.jpg")

    places = [int(unlabeled[Address(epoch=epoch, index=5)]["ref"]) for epoch in range(60)]

    assert len(set(places)) > IMAGES // 2


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_with_bad_images_do_not_depend_on_workers_and_on_where_they_begin(
    folder: Path, bad: BadImages, unlabeled: UnlabeledDataset, workers: int
) -> None:
    """Whole in this process, and from step 3 on by workers that know nothing yet: as after a resume on another node."""
    for key in (2, 5, 6):
        truncate(folder / f"{key}.jpg")
    stream = EndlessStream(size=IMAGES, batch=4, seed=0, name="unlabeled")

    def batches(first: int, workers: int) -> list[dict[str, Any]]:
        sampler = AddressSampler(stream=stream, start_step=first, end_step=6)
        return list(load_batches(unlabeled, sampler, workers=workers, stack_proposals=ProposalBatch.stack))

    whole = batches(0, 0)
    shutil.rmtree(bad.folder)
    part = batches(3, workers)

    for one, other in zip(whole[3:], part, strict=True):
        assert one["image_sha256"] == other["image_sha256"]
        assert one["expression"] == other["expression"]
        assert torch.equal(one["strong"], other["strong"])
    assert bad.names() == ["2.jpg", "5.jpg", "6.jpg"]


def test_an_image_that_is_known_is_not_read_again(
    folder: Path, bad: BadImages, inputs: Inputs, labeled: LabeledDataset
) -> None:
    """Also where a process has it in memory: the samples are then the same on all."""
    cached = replace(
        labeled, inputs=replace(inputs, pictures=PictureLoader(ImageSource(folder), size=SIZE, cache_bytes=10**6))
    )
    cached[Address(epoch=0, index=5)]
    bad.add("5.jpg", "another process could not read it")

    places = [int(dataset[Address(epoch=0, index=5)]["ref"]) for dataset in (cached, labeled)]

    assert places[0] == places[1] != 5


def test_an_image_without_proposals_is_bad(folder: Path, bad: BadImages, unlabeled: UnlabeledDataset) -> None:
    """It changed after they were made, or another node found it bad: no reason to end the run."""
    sha256 = unlabeled[Address(epoch=0, index=5)]["image_sha256"]
    dataset = replace(unlabeled, proposals=Records(unknown=(sha256,)))

    assert int(dataset[Address(epoch=0, index=5)]["ref"]) != 5
    assert "has no proposals" in bad.reasons()["5.jpg"]


def test_more_than_the_limit_end_the_run_naming_them(folder: Path, labeled: LabeledDataset) -> None:
    for key in range(4):
        truncate(folder / f"{key}.jpg")

    message = r"badImageLimit: 4 images are bad, 3 are allowed: image 0\.jpg .*; image 1\.jpg .* Repair the files"
    with pytest.raises(TooManyBadImages, match=message) as end:
        list(map(labeled.__getitem__, (Address(epoch=0, index=index) for index in range(IMAGES))))

    assert end.value.exit_code == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_the_limit_holds_over_worker_processes(folder: Path, labeled: LabeledDataset, workers: int) -> None:
    for path in folder.iterdir():
        truncate(path)
    batches = AddressSampler(
        stream=EndlessStream(size=IMAGES, batch=2, seed=0, name="x"), start_step=0, end_step=4, micro_batch=1
    )

    with pytest.raises(TooManyBadImages, match=r"images are bad, 3 are allowed"):
        list(load_batches(labeled, batches, workers=workers))


def test_with_no_image_left_the_run_ends(folder: Path, bad: BadImages, inputs: Inputs) -> None:
    for path in folder.iterdir():
        truncate(path)
    few = LabeledDataset(inputs=inputs, refs=inputs.dataset.refs[:2], seed=0)

    with pytest.raises(DataError, match=r"none of the 2 labeled samples has a usable image"):
        few[Address(epoch=0, index=0)]


def test_without_a_registry_a_bad_image_is_an_error(folder: Path, inputs: Inputs) -> None:
    truncate(folder / "5.jpg")
    dataset = LabeledDataset(inputs=replace(inputs, bad_images=None), refs=inputs.dataset.refs, seed=0)

    with pytest.raises(BadImageError, match=r"image 5\.jpg \(id 5\)"):
        dataset[Address(epoch=0, index=5)]


def test_an_evaluation_image_is_never_replaced(folder: Path, bad: BadImages, inputs: Inputs) -> None:
    truncate(folder / "5.jpg")
    dataset = EvalDataset(inputs=inputs, refs=inputs.dataset.refs, pairs=evaluation_pairs(inputs.dataset.refs))
    place = next(number for number, (ref, _) in enumerate(dataset.pairs) if ref == 5)

    with pytest.raises(
        BadImageError, match=r"image 5\.jpg .*evaluation images are never replaced.*Repair the file"
    ) as end:
        dataset[place]

    assert end.value.exit_code == 3
    assert bad.count() == 0


def test_a_folder_that_is_gone_is_no_bad_image(folder: Path, bad: BadImages, labeled: LabeledDataset) -> None:
    shutil.rmtree(folder)

    with pytest.raises(InfrastructureError, match=r"images is gone while it is read from"):
        labeled[Address(epoch=0, index=5)]

    assert bad.count() == 0


def note_all(folder: Path, names: Iterable[str]) -> None:
    registry = BadImages(folder=folder, limit=99)
    for name in names:
        registry.add(name, f"{name} is damaged")


def test_processes_count_together(bad: BadImages) -> None:
    """Four processes note the same names at once, in different orders."""
    names = [f"sub/{number}.jpg" for number in range(20)]
    orders = [names, names[::-1], names[10:] + names[:10], names[5:] + names[:5]]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=note_all, args=(bad.folder, order)) for order in orders]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * 4
    assert bad.count() == 20
    assert bad.reasons() == {name: f"{name} is damaged" for name in sorted(names)}


def test_a_marker_holds_name_and_reason_and_is_whole(bad: BadImages) -> None:
    bad.add("../a\nname.jpg", "why")

    (marker,) = bad.folder.iterdir()
    assert json.loads(marker.read_text()) == {"file_name": "../a\nname.jpg", "reason": "why"}
    assert "../a\nname.jpg" in bad
    assert "another.jpg" not in bad


def test_a_marker_half_written_by_a_killed_process_is_ignored(bad: BadImages) -> None:
    bad.add("1.jpg", "why")
    (bad.folder / ".5d41402abc4b2a76b9719d911017c592.json.0123.tmp").write_text("{")
    (bad.folder / ".half.json").write_text("{")

    assert (bad.count(), bad.names()) == (1, ["1.jpg"])


def test_a_marker_that_cannot_be_written_is_an_error_of_the_infrastructure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(InfrastructureError, match=r"image 1\.jpg is bad, which can't be noted in .*: Not a directory"):
        BadImages(folder=tmp_path / "file" / "bad-images", limit=3).add("1.jpg", "why")


def test_a_later_start_uses_what_was_repaired(folder: Path, bad: BadImages, inputs: Inputs) -> None:
    truncate(folder / "6.jpg")
    for key in (5, 6):
        bad.add(f"{key}.jpg", "damaged")
    records = {record.file_name: record for record in inputs.dataset.images.values()}

    bad.forget_mended(lambda name: is_usable(inputs.pictures.source, records[name]))

    assert bad.names() == ["6.jpg"]


def test_a_later_start_with_too_many_bad_images_ends_at_once(bad: BadImages) -> None:
    for key in range(3):
        bad.add(f"{key}.jpg", "damaged")

    with pytest.raises(TooManyBadImages, match=r"3 images are bad, 2 are allowed"):
        replace(bad, limit=2).forget_mended(lambda name: False)
