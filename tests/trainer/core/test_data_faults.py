"""Real runs whose images or loaders fail while they train: they go on, or end with a reason, and resume to the bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from semires_trainer.config import parse_job
from semires_trainer.errors import DataError, InfrastructureError
from semires_trainer.launch import run
from semires_trainer.materials import load_materials
from semires_trainer.metrics_log import read_records, series
from semires_trainer.progress_file import read_progress
from semires_trainer.signals import StopRequested
from semires_trainer.sinks import Position

Moment = Callable[[Position], bool]


@pytest.fixture
def copies(data: Path, tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Copies of the dataset that a test may damage."""
    count = iter(range(9))
    return lambda: Path(shutil.copytree(data, tmp_path / f"data-{next(count)}"))


def image_names(harness: ModuleType, document: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Files of the labelled images, and of those that are only unlabelled."""
    materials = load_materials(harness.resolved_of(document))
    labeled, unlabeled = (
        list(dict.fromkeys(materials.dataset.images[ref.image_id].file_name for ref in refs))
        for refs in (materials.labeled, materials.unlabeled)
    )
    return labeled, [name for name in unlabeled if name not in labeled]


def when(moment: Moment, act: Callable[[], None], stop: Moment) -> Moment:
    """Do something at a moment of the run, and ask it to stop at another."""

    def look(position: Position) -> bool:
        if moment(position):
            act()
        return stop(position)

    return look


def at(stage: str, done: int) -> Moment:
    return lambda position: position.stage == stage and position.done == done


def never(_position: Position) -> bool:
    return False


def listed(output: Path) -> list[str]:
    return [image["file_name"] for image in json.loads((output / "bad-images.json").read_text())["images"]]


@pytest.mark.parametrize(
    ("workers", "markers"),
    [pytest.param(0, "kept", id="same-machine"), pytest.param(2, "lost", id="loader-processes-another-machine")],
)
def test_a_run_goes_on_when_a_file_is_truncated_under_it_and_resumes_exactly(
    finished: Path,
    copies: Callable[[], Path],
    tmp_path: Path,
    harness: ModuleType,
    workers: int,
    markers: str,
) -> None:
    """Two runs whose image goes bad before mutual learning reads it; one is stopped in the middle and started again."""
    watches, outputs = [], []
    for name, stop in (("whole", never), ("parts", at("train", 2))):
        data, output = copies(), tmp_path / name
        document = harness.document_of(data, output, workers=workers)
        path = data / "images" / image_names(harness, document)[1][0]
        try:
            look = when(at("train", 0), lambda path=path: harness.cut(path), stop)
            watches.append(harness.train(document, stop_when=look))
        except StopRequested:
            if markers == "lost":
                shutil.rmtree(output / ".run")
            watches.append(harness.train(document))
        outputs.append(output)

    whole, parts = map(harness.newest_tensors, outputs)
    assert harness.differing(whole, parts) == []
    assert harness.differing(whole, harness.newest_tensors(finished)) != []
    assert [listed(output) for output in outputs] == [[path.name]] * 2
    for watch in watches:
        (warning,) = [text for text in watch.messages if text.startswith("Bad image")]
        assert warning.startswith(f"Bad image 1 of 10 allowed, left out of training: image {path.name} ")


def test_a_whole_run_with_bad_images_ends_well_and_lists_them(
    copies: Callable[[], Path], output: Path, harness: ModuleType
) -> None:
    """One labelled and one unlabelled image, bad from the start: no proposals, no training, no overlay of them."""
    data = copies()
    shutil.rmtree(data / "store", ignore_errors=True)
    document = harness.document_of(data, output)
    (first, *_), (second, *_) = image_names(harness, document)
    harness.cut(data / "images" / first)
    Image.new("RGB", (8, 8)).save(data / "images" / second)

    run(parse_job(document))
    first_list = (output / "bad-images.json").read_text()
    told = read_progress(output / ".run" / "progress.json").report
    run(parse_job(document))

    assert listed(output) == sorted([first, second])
    assert told is not None
    assert told.training.bad_images == 2
    assert json.loads(first_list)["limit"] == 10
    assert (output / "bad-images.json").read_text() == first_list
    assert (output / "results.json").is_file()
    assert (output / "overlays" / "sheet.png").is_file()
    assert series(read_records(output / "metrics.jsonl"), "data/bad_images")[1] == [2.0]


def test_more_bad_images_than_allowed_end_the_run_which_goes_on_when_more_are_allowed(
    copies: Callable[[], Path], output: Path, harness: ModuleType
) -> None:
    data = copies()
    document = harness.changed(harness.document_of(data, output), dataset__badImageLimit=1)
    for name in image_names(harness, document)[0][:2]:
        harness.cut(data / "images" / name)

    for _ in range(2):
        with pytest.raises(DataError, match=r"badImageLimit: 2 images are bad, 1 are allowed.*can't be decoded") as end:
            harness.train(document)
    assert end.value.exit_code == 3
    watch = harness.train(harness.changed(document, dataset__badImageLimit=2))

    assert len(listed(output)) == 2
    assert len(watch.losses["train"]) == 2 * harness.STEPS_PER_EPOCH


def test_repaired_images_are_used_again(
    finished: Path, copies: Callable[[], Path], output: Path, harness: ModuleType
) -> None:
    """Stopped by a bad image before any step; what comes out is what would have come out."""
    data = copies()
    document = harness.changed(harness.document_of(data, output), dataset__badImageLimit=0)
    path = data / "images" / image_names(harness, document)[0][0]
    content = path.read_bytes()
    harness.cut(path)

    with pytest.raises(DataError, match="1 images are bad, 0 are allowed"):
        harness.train(document, stages=("propose", "train"))
    assert listed(output) == [path.name]
    path.write_bytes(content)
    harness.train(document, stages=("propose", "train"))

    assert harness.differing(harness.newest_tensors(output), harness.newest_tensors(finished)) == []
    assert not (output / "bad-images.json").exists()


def test_a_bad_evaluation_image_ends_the_run_which_goes_on_when_it_is_repaired(
    finished: Path, copies: Callable[[], Path], output: Path, harness: ModuleType
) -> None:
    data = copies()
    document = harness.document_of(data, output)
    materials = load_materials(harness.resolved_of(document))
    path = data / "images" / materials.dataset.images[materials.dataset.refs_of("val")[0].image_id].file_name
    content = path.read_bytes()
    harness.cut(path)

    with pytest.raises(DataError, match=rf"image {path.name} .*evaluation images are never replaced") as end:
        harness.train(document)
    path.write_bytes(content)
    harness.train(document)

    assert end.value.exit_code == 3
    assert harness.differing(harness.newest_tensors(output), harness.newest_tensors(finished)) == []


def test_a_loader_process_that_is_killed_ends_the_run_which_goes_on_when_started_again(
    finished: Path, data: Path, output: Path, harness: ModuleType
) -> None:
    """As the kernel does when memory runs out; torch notices in whatever the rank is doing."""
    document = harness.document_of(data, output, workers=1, checkpoint={"intervalSteps": 1})

    def kill() -> None:
        process = multiprocessing.active_children()[0]
        os.kill(process.pid or 0, signal.SIGKILL)

    with pytest.raises(InfrastructureError, match=r"a loader process (of rank 0 )?was lost") as end:
        harness.train(document, stop_when=when(at("train", 1), kill, never))
    harness.train(document)

    assert end.value.exit_code == 150
    assert harness.differing(harness.newest_tensors(output), harness.newest_tensors(finished)) == []
