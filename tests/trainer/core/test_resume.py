"""A run that is stopped and started again ends where an uninterrupted one does, bit by bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.checkpoint_folders import newest_valid
from semires_trainer.signals import StopRequested
from semires_trainer.sinks import Position


def at(stage: str, done: int) -> Any:
    """After `done` units of a stage: the step that follows is still done, as after a signal during it."""

    def is_now(position: Position) -> bool:
        return position.stage == stage and position.done == done

    return is_now


def during_first_evaluation_of(stage: str) -> Any:
    seen: list[str] = []

    def is_now(position: Position) -> bool:
        seen.append(position.stage)
        return position.stage == "evaluate" and stage in seen

    return is_now


def state_of(output: Path) -> dict[str, Any]:
    newest = newest_valid(output / "checkpoints")
    assert newest is not None
    return json.loads((newest / "state.json").read_text())


@pytest.mark.parametrize(
    ("stop_when", "stage", "step", "evaluated"),
    [
        pytest.param(at("burn-in", 1), "burn-in", 2, None, id="middle-of-burn-in"),
        pytest.param(at("burn-in", 2), "burn-in", 3, None, id="epoch-end-before-its-evaluation"),
        pytest.param(during_first_evaluation_of("burn-in"), "burn-in", 3, None, id="in-an-evaluation"),
        pytest.param(at("train", 4), "train", 5, 3, id="middle-of-mutual-learning"),
        pytest.param(at("train", 5), "train", 6, 3, id="last-step"),
    ],
)
def test_a_stopped_run_ends_like_an_uninterrupted_one(
    finished: Path,
    data: Path,
    output: Path,
    harness: ModuleType,
    stop_when: Any,
    stage: str,
    step: int,
    evaluated: int | None,
) -> None:
    document = harness.document_of(data, output)

    with pytest.raises(StopRequested, match="start again") as stopped:
        harness.train(document, stop_when=stop_when)
    saved = state_of(output)
    harness.train(document, stages=("train", "evaluate"))

    assert stopped.value.exit_code == 143
    assert (saved["stage"], saved["step"], saved["evaluated_step"]) == (stage, step, evaluated)
    assert harness.differing(harness.newest_tensors(output), harness.newest_tensors(finished)) == []
    assert state_of(output) == state_of(finished)
    assert (output / "results.json").read_text() == (finished / "results.json").read_text()


def test_another_interval_of_checkpoints_trains_the_same(
    finished: Path, data: Path, output: Path, harness: ModuleType
) -> None:
    """Checkpoints at other steps, two of them at an epoch end before its evaluation."""
    harness.train(harness.document_of(data, output, checkpoint={"intervalSteps": 1, "keepLast": 100}))

    names = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert names == [f"step-{number:08d}" for number in range(1, 13)]
    assert harness.differing(harness.newest_tensors(output), harness.newest_tensors(finished)) == []
    assert state_of(output) == state_of(finished)


def test_a_run_goes_on_from_an_older_checkpoint_if_the_newest_is_damaged(
    finished: Path, data: Path, output: Path, harness: ModuleType
) -> None:
    shutil.copytree(finished, output)
    newest = newest_valid(output / "checkpoints")
    assert newest is not None
    (newest / "teacher.safetensors").write_bytes(b"")

    watch = harness.train(harness.document_of(data, output))

    assert len(watch.losses["train"]) == harness.STEPS_PER_EPOCH
    assert harness.differing(harness.newest_tensors(output), harness.newest_tensors(finished)) == []


def test_a_finished_run_started_again_says_so_and_changes_nothing(
    finished: Path, data: Path, harness: ModuleType
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    document = harness.document_of(data, finished)

    watch = harness.train(document, stages=("propose", "train", "evaluate"))

    assert watch.losses == {"burn-in": [], "train": []}
    said = " ".join(watch.messages)
    assert "Burn-in is done already." in said
    assert "Mutual learning is done already." in said
    assert "evaluated already" in said
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")} == before


def test_a_stop_while_proposals_are_made_keeps_what_is_made(data: Path, output: Path, harness: ModuleType) -> None:
    document = harness.changed(harness.document_of(data, output), proposals__store=str(output / "store"))

    with pytest.raises(StopRequested, match="kept"):
        harness.train(document, stages=("propose",), stop_when=at("proposals", 2))
    watch = harness.train(document, stages=("propose",))

    assert "Proposals of 10 images: 2 were in" in watch.messages[-1]
    assert "8 are new" in watch.messages[-1]


def test_a_stop_in_the_final_evaluation_leaves_it_to_the_next_start(
    finished: Path, data: Path, output: Path, harness: ModuleType
) -> None:
    shutil.copytree(finished, output)
    (output / "results.json").unlink()
    document = harness.document_of(data, output)

    with pytest.raises(StopRequested, match="start again"):
        harness.train(document, stages=("evaluate",), stop_when=at("evaluate", 0))
    assert not (output / "results.json").exists()
    harness.train(document, stages=("evaluate",))

    assert (output / "results.json").read_text() == (finished / "results.json").read_text()
