"""Checkpoints written beside training: what is written, what is told, what a disk without room does."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from semires_trainer.checkpoint import TrainingState, load_checkpoint, optimizer_tensors
from semires_trainer.checkpoint_folders import checkpoints_of, is_valid, newest_valid, number_of
from semires_trainer.checkpoint_keeper import CheckpointKeeper, tell_written
from semires_trainer.checkpoint_writer import CheckpointWriter, Written, disk_failure
from semires_trainer.distributed import World
from semires_trainer.errors import InfrastructureError
from semires_trainer.metrics_log import MetricsLog, read_records
from semires_trainer.sinks import NullSink
from semires_trainer.telemetry import Reporter, null_reporter

LIMIT = 4096
"""Bytes that a file may have where the disk is said to be full; a checkpoint of width 64 has more."""


@dataclass
class Bench:
    """A writer, what it told, and states to write."""

    root: Path
    states: ModuleType
    told: list[Written] = field(default_factory=list)
    keep_last: int = 3
    milestones: frozenset[int] = frozenset()
    writer: CheckpointWriter = field(init=False)

    def __post_init__(self) -> None:
        self.writer = CheckpointWriter(
            self.root, keep_last=self.keep_last, milestones=self.milestones, tell=self.told.append
        )

    def keeper(self, first_step: int = 0) -> CheckpointKeeper:
        return CheckpointKeeper(self.root, self.writer, world=World(), reporter=null_reporter(), first_step=first_step)

    def state(self, step: int, **progress: Any) -> TrainingState:
        """The state after 2 steps, said to be at `step` and without an evaluation."""
        unevaluated = {"best_oiou": None, "best_step": None, "evaluated_step": None, "oiou": None}
        found: TrainingState = self.states.state_after(2, width=64)
        found.progress = replace(found.progress, **{**unevaluated, "step": step, **progress})
        return found

    @property
    def numbers(self) -> list[int]:
        return [number_of(folder) for folder in checkpoints_of(self.root)]


@pytest.fixture
def bench(tmp_path: Path, states: ModuleType) -> Iterator[Bench]:
    made = Bench(root=tmp_path / "checkpoints", states=states)
    yield made
    made.writer.close()


def loaded(folder: Path, like: TrainingState, states: ModuleType) -> TrainingState:
    state: TrainingState = states.state_after(0, seed=1, width=64, progress=replace(like.progress, step=0))
    load_checkpoint(folder, state)
    return state


def test_what_is_written_is_the_state_at_the_save_whatever_the_next_step_does(bench: Bench) -> None:
    state, expected = bench.state(7), bench.state(7)

    bench.writer.save(state, 7)
    with torch.no_grad():
        for tensor in [*state.student.state_dict().values(), *optimizer_tensors(state).values()]:
            tensor.fill_(99)
    bench.writer.flush()

    assert bench.states.difference(loaded(bench.root / "step-00000007", state, bench.states), expected) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_state_on_a_gpu_is_written_as_it_was_at_the_save(bench: Bench) -> None:
    state, expected = bench.state(7), bench.state(7)
    tensors = [*state.student.parameters(), *state.student.buffers(), *optimizer_tensors(state).values()]
    for tensor in tensors:
        tensor.data = tensor.data.cuda()

    bench.writer.save(state, 7)
    for tensor in tensors:
        tensor.data.fill_(99)
    bench.writer.flush()

    assert bench.states.difference(loaded(bench.root / "step-00000007", state, bench.states), expected) == []


def test_a_second_checkpoint_waits_for_the_first_and_both_are_whole(bench: Bench) -> None:
    first, second = bench.state(7), bench.state(8)
    with torch.no_grad():
        second.student[0].weight.mul_(2)

    bench.writer.save(first, 7)
    bench.writer.save(second, 8)

    assert [written.number for written in bench.told] == [7]
    bench.writer.flush()
    for state in (first, second):
        folder = bench.root / f"step-{state.progress.step:08d}"
        assert bench.states.difference(loaded(folder, state, bench.states), state) == []


def test_settling_tells_of_a_write_that_has_ended_and_waits_for_none(bench: Bench) -> None:
    bench.writer.settle()
    bench.writer.save(bench.state(7), 7)
    deadline = time.monotonic() + 30
    while not bench.told and time.monotonic() < deadline:
        bench.writer.settle()
        time.sleep(0.001)

    (written,) = bench.told
    assert written.error is None
    assert written.bytes > 0
    assert 0 < written.stall_seconds < written.stall_seconds + written.write_seconds < 30


def test_the_same_progress_is_written_once(bench: Bench) -> None:
    for _ in range(3):
        bench.writer.save(bench.state(7), 7)
    bench.writer.flush()

    assert len(bench.told) == 1


def test_a_write_without_room_is_told_and_leaves_the_earlier_one_alone(bench: Bench) -> None:
    bench.writer.save(bench.state(7), 7)
    bench.writer.flush()

    with bench.states.file_size_limit(LIMIT):
        bench.writer.save(bench.state(8), 8)
        bench.writer.flush()
    failed = bench.told[-1]

    assert failed.error is bench.writer.error is not None
    assert "File too large" in str(failed.error)
    assert "keepLast" in str(failed.error)
    assert (failed.error.exit_code, bench.writer.failures) == (150, 1)
    assert [path.name for path in bench.root.iterdir()] == ["step-00000007"]
    bench.writer.save(bench.state(8), 8)
    bench.writer.flush()
    assert bench.numbers == [7, 8]
    assert bench.writer.error is None


def test_a_place_that_can_hold_no_folder_is_told(bench: Bench) -> None:
    bench.root.write_text("a file")

    bench.writer.save(bench.state(7), 7)
    bench.writer.flush()

    assert "checkpoints" in str(bench.writer.error)
    assert isinstance(bench.writer.error, InfrastructureError)


def test_a_bug_on_the_thread_is_told_with_its_traceback(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.writer.save(bench.state(7, best_oiou=object()), 7)
    bench.writer.flush()

    assert "TypeError" in str(bench.writer.error)
    assert "json" in caplog.text
    assert "Traceback" in caplog.text


def test_no_room_is_disk_full(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as full:
        Path("/dev/full").write_text("x")

    failure = disk_failure(full.value, tmp_path)

    assert (failure.reason, failure.exit_code) == ("DiskFull", 150)


def test_leftovers_of_a_killed_process_make_room_first(bench: Bench) -> None:
    bench.writer.save(bench.state(7), 7)
    bench.writer.flush()
    (bench.root / ".step-00000008.0f.tmp").mkdir()
    shutil.copytree(bench.root / "step-00000007", bench.root / "step-00000007.replaced")

    bench.writer.save(bench.state(8), 8)
    bench.writer.flush()

    assert sorted(path.name for path in bench.root.iterdir()) == ["step-00000007", "step-00000008"]


@pytest.mark.parametrize("saves", [pytest.param(40, id="40"), pytest.param(1000, id="1000", marks=pytest.mark.long)])
def test_exactly_the_last_the_best_and_the_milestones_are_kept(tmp_path: Path, states: ModuleType, saves: int) -> None:
    """The stage begins after 100 steps of the run and is evaluated at each fourth; the best is at the 24th."""
    milestones = frozenset(range(100, 100 + saves + 1, saves // 4))
    bench = Bench(root=tmp_path, states=states, milestones=milestones)
    state = bench.state(0)
    for step in range(1, saves + 1):
        best = {"best_step": min(step // 4 * 4, 24) or None}
        state.progress = replace(state.progress, step=step, **best)
        bench.writer.save(state, 100 + step)
    bench.writer.close()

    last = {100 + step for step in range(saves - 2, saves + 1)}
    assert bench.numbers == sorted(last | {124} | milestones - {100})
    assert all(is_valid(folder) for folder in checkpoints_of(tmp_path))
    assert all(written.error is written.prune_error is None for written in bench.told)


def test_a_stop_says_what_is_saved(bench: Bench) -> None:
    saved = bench.keeper(first_step=100).save_now(bench.state(7))

    assert saved.step == 107
    assert "Checkpoint of train step 7 is in" in saved.sentence
    assert bench.numbers == [107]


def test_a_stop_on_a_full_disk_says_what_is_lost(bench: Bench) -> None:
    keeper = bench.keeper(first_step=100)
    keeper.save(bench.state(5))
    keeper.save(bench.state(6))
    bench.writer.flush()
    with bench.states.file_size_limit(LIMIT):
        saved = keeper.save_now(bench.state(7))

    assert saved.step == 106
    assert "train step 7 could not be saved" in saved.sentence
    assert str(bench.root / "step-00000106") in saved.sentence
    assert "File too large" in saved.sentence


def test_a_stop_on_a_disk_that_was_always_full_says_that_nothing_is_left(bench: Bench) -> None:
    with bench.states.file_size_limit(LIMIT):
        saved = bench.keeper().save_now(bench.state(7))

    assert saved.step is None
    assert "there is no earlier one" in saved.sentence


def test_the_end_of_a_stage_is_insisted_on(bench: Bench) -> None:
    with bench.states.file_size_limit(LIMIT), pytest.raises(InfrastructureError, match="File too large") as failed:
        bench.keeper().save_end(bench.state(7, finished=True), pauses=(0.0, 0.01))

    assert failed.value.exit_code == 150
    assert bench.writer.failures == 3


def test_the_end_of_a_stage_is_tried_until_there_is_room(bench: Bench) -> None:
    room = bench.states.file_size_limit(LIMIT)
    tell = bench.told.append

    def make_room(written: Written) -> None:
        tell(written)
        if len(bench.told) == 2:
            room.__exit__(None, None, None)

    bench.writer._tell = make_room
    room.__enter__()
    bench.keeper().save_end(bench.state(7, finished=True), pauses=(0.0, 0.0))

    assert [written.error is None for written in bench.told] == [False, False, True]
    assert newest_valid(bench.root) == bench.root / "step-00000007"


def test_restoring_waits_for_the_write_under_way(bench: Bench) -> None:
    keeper, state = bench.keeper(), bench.state(7)
    keeper.save(state)
    later = bench.state(9)

    assert keeper.restore(later)
    assert later.progress == state.progress


def test_a_checkpoint_of_another_stage_is_not_restored(bench: Bench) -> None:
    bench.keeper().save_now(bench.state(7, stage="burn-in", finished=True))

    assert not bench.keeper(first_step=7).restore(bench.state(0))


@dataclass
class Ear(NullSink):
    """Remembers what is said."""

    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def event(self, level: int, event: str, message: str, fields: Any) -> None:
        self.said.append((event, {"message": message, **fields}))


def test_each_write_leaves_its_figures(bench: Bench, tmp_path: Path) -> None:
    ear = Ear()
    with Reporter(ear, metrics=MetricsLog(tmp_path, tensorboard=False)) as reporter:
        bench.writer._tell = lambda written: tell_written(written, reporter, failures=bench.writer.failures)
        bench.writer.save(bench.state(7), 107)
        bench.writer.flush()
        with bench.states.file_size_limit(LIMIT):
            bench.writer.save(bench.state(8), 108)
            bench.writer.flush()
    good, bad = read_records(tmp_path / "metrics.jsonl")

    assert (good["step"], bad["step"]) == (107, 108)
    assert (good["checkpoint/failures"], bad["checkpoint/failures"]) == (0, 1)
    folder = bench.root / "step-00000107"
    tensor_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert 0 < good["checkpoint/bytes"] < tensor_bytes
    assert good["checkpoint/stall_seconds"] > 0
    assert good["checkpoint/write_seconds"] > 0
    assert [event for event, _ in ear.said] == ["message", "warning"]
    assert json.dumps(ear.said[0][1]).count(str(folder)) == 2
    assert "File too large" in ear.said[1][1]["message"]
    assert ear.said[1][1]["checkpoint_failures"] == 1
