"""The progress file: what rank 0 leaves in it, how often, and that a reader never falls over it."""

from __future__ import annotations

import datetime
import errno
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from semires_trainer.progress_file import METRIC_NAMES, ProgressReport, ProgressSink, read_progress, replace_text
from semires_trainer.sinks import NullSink, TeeSink
from semires_trainer.telemetry import Phase, Reporter, ReportFiles, open_reporter


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


STEPS = {"burn-in": 6, "train": 10}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".run" / "progress.json"


@pytest.fixture
def reporter(path: Path, clock: Clock) -> Reporter:
    phases = [Phase(name=name, units=units) for name, units in STEPS.items()]
    return Reporter(ProgressSink(path, steps=STEPS, clock=clock), phases=phases, clock=clock)


def read(path: Path) -> ProgressReport:
    found = read_progress(path)
    assert found.report is not None, found.reason
    return found.report


def test_the_file_says_where_the_whole_run_is(reporter: Reporter, path: Path, clock: Clock) -> None:
    with reporter.stage("train", 10, done=2, samples_per_unit=8):
        clock.now += 2.0
        reporter.advance(epoch=1, epochs=5, loss=0.5)

        found = read(path)

    assert (found.stage, found.epoch, found.epochs) == ("train", 1, 5)
    assert (found.step, found.steps) == (6 + 3, 16)
    assert found.training.images_per_second == 4.0
    assert 0 < found.progress_percentage < 100
    assert found.estimated_remaining_seconds == round((6 + 7) * 2.0)


def test_metrics_have_known_names_and_decimal_values(reporter: Reporter, path: Path) -> None:
    with reporter.stage("train", 10, samples_per_unit=8):
        reporter.advance(epoch=1, epochs=5, loss=0.123456789)
        reporter.log_metrics(1, {"train/learning_rate": 1e-5, "train/matched_share": 1.0000000001, "train/other": 1.0})
        reporter.evaluated("teacher", "val", overall_iou=43.5, mean_iou=100.0000001)

        found = read(path)

    metrics = {metric.name: metric.value for metric in found.metrics}
    assert set(metrics) <= set(METRIC_NAMES)
    assert metrics["loss"] == "0.123457"
    assert (metrics["learningRate"], metrics["matchRatio"]) == ("1e-05", "1")
    assert (metrics["oIoU"], metrics["mIoU"]) == ("43.5", "100")


def test_the_shown_iou_is_the_teachers_on_the_split_that_was_evaluated_first(reporter: Reporter, path: Path) -> None:
    with reporter.stage("evaluate", 1, unit="batch"):
        for model, split, oiou in [("burn-in", "val", 1.0), ("burn-in", "testA", 2.0), ("teacher", "val", 3.0)]:
            reporter.evaluated(model, split, overall_iou=oiou, mean_iou=oiou)
        reporter.evaluated("teacher", "testA", overall_iou=4.0, mean_iou=4.0)

        found = read(path)

    assert [metric.value for metric in found.metrics if metric.name == "oIoU"] == ["3"]
    assert len(found.training.evaluations) == 4


def test_the_parts_of_the_loss_are_those_of_the_stage(reporter: Reporter, path: Path) -> None:
    with reporter.stage("train", 10):
        reporter.advance(loss=0.5)
        reporter.log_metrics(1, {"train/loss": 0.5, "train/sam": 0.25})
        with reporter.stage("evaluate", 1, unit="batch"):
            assert read(path).training.loss == {"total": 0.5, "sam": 0.25}
    with reporter.stage("train", 10):
        assert read(path).training.loss == {}


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_unknown_not_what_it_was(reporter: Reporter, path: Path, loss: float) -> None:
    with reporter.stage("train", 10):
        reporter.advance(loss=0.5)
        reporter.advance(loss=loss)

    assert "total" not in read(path).training.loss


def test_steps_waits_and_what_was_left_out_add_up(reporter: Reporter, path: Path, clock: Clock) -> None:
    with reporter.stage("train", 10):
        for _ in range(2):
            with reporter.waiting("data_wait_seconds"):
                clock.now += 0.5
            clock.now += 2.0
            reporter.advance()
            with reporter.waiting("checkpoint_stall_seconds"):
                clock.now += 1.0
        reporter.count("skipped_steps")
        reporter.count("bad_images", 3)
        with reporter.stage("evaluate", 1, unit="batch"):
            clock.now += 60.0
            reporter.advance()

    training = read(path).training
    assert (training.steps, training.step_seconds) == (2, 4.0)
    assert (training.data_wait_seconds, training.checkpoint_stall_seconds) == (1.0, 2.0)
    assert (training.skipped_steps, training.bad_images) == (1, 3)


def test_each_unit_is_a_beat_and_only_a_step_is_the_start(reporter: Reporter, path: Path) -> None:
    with reporter.stage("proposals", 2, unit="image"):
        reporter.advance()
        reporter.advance()
    proposals = read(path)
    with reporter.stage("train", 2):
        reporter.advance()
    training = read(path)

    assert (proposals.beat, proposals.started) == (2, False)
    assert (training.beat, training.started) == (3, True)


def test_the_file_is_replaced_at_most_once_a_second_between_the_ends(
    reporter: Reporter, path: Path, clock: Clock
) -> None:
    inodes = set()
    with reporter.stage("train", 100):
        for _ in range(50):
            clock.now += 0.1
            reporter.advance()
            inodes.add((path.stat().st_ino, path.stat().st_mtime_ns))

    assert 5 <= len(inodes) <= 7
    assert (read(path).step, read(path).beat) == (6 + 50, 50)


def test_the_end_leaves_the_last_state(reporter: Reporter, path: Path) -> None:
    with reporter.stage("train", 2):
        reporter.advance()
        reporter.count("bad_images")
        path.unlink()
    reporter.count("bad_images")

    reporter.close()

    assert read(path).training.bad_images == 2
    assert [file.name for file in path.parent.iterdir()] == ["progress.json"]


def test_a_step_costs_microseconds(reporter: Reporter, path: Path, clock: Clock) -> None:
    """Within the second nothing is written: a thousand steps leave one file untouched."""
    with reporter.stage("train", 2000):
        reporter.advance()
        before = os.stat(path)
        for _ in range(1000):
            reporter.advance(loss=1.0)

        assert os.stat(path) == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(None, "No such file", id="absent"),
        pytest.param(b"", "EOF", id="empty"),
        pytest.param(b"[]", "should be an object", id="a-list"),
        pytest.param(b"\xff\x00nonsense", "Invalid JSON", id="binary"),
        pytest.param(b"[" * 60_000, "Invalid JSON", id="deep"),
        pytest.param(b" " * 100_000, "longer than", id="long"),
    ],
)
def test_a_file_that_is_no_report_is_a_reason(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "progress.json"
    if content is not None:
        path.write_bytes(content)

    found = read_progress(path)

    assert found.report is None
    assert reason in found.reason
    assert str(path) in found.reason


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        pytest.param({"schemaVersion": 2}, "schemaVersion", id="schema"),
        pytest.param({"beat": -1}, "beat", id="negative"),
        pytest.param({"step": "3"}, "step", id="a-string"),
        pytest.param({"progressPercentage": 101}, "progressPercentage", id="too-much"),
        pytest.param({"stage": "x" * 65}, "stage", id="long-name"),
        pytest.param({"lastUpdatedTime": "yesterday"}, "lastUpdatedTime", id="time"),
        pytest.param({"metrics": [{"name": "a", "value": "1"}] * 7}, "metrics", id="many-metrics"),
        pytest.param({"training": {"loss": {"total": float("nan")}}}, "training.loss.total", id="nan"),
        pytest.param({"training": {"learningRate": float("inf")}}, "training.learningRate", id="infinity"),
    ],
)
def test_a_report_is_checked(tmp_path: Path, report: ProgressReport, changes: dict[str, Any], place: str) -> None:
    path = tmp_path / "progress.json"
    path.write_text(json.dumps({**json.loads(report.to_json()), **changes}))

    found = read_progress(path)

    assert found.report is None
    assert f": {place}: " in found.reason


def test_a_torn_file_is_a_reason_wherever_it_ends(tmp_path: Path, report: ProgressReport) -> None:
    path, content = tmp_path / "progress.json", report.to_json().strip().encode()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])

        assert read_progress(path).report is None


def test_a_report_reads_as_it_was_written(tmp_path: Path, report: ProgressReport) -> None:
    path = tmp_path / "progress.json"
    replace_text(path, report.to_json(), at=report.last_updated_time.timestamp())

    assert read_progress(path) == (report, "")


def test_a_later_version_may_say_more(tmp_path: Path, report: ProgressReport) -> None:
    path = tmp_path / "progress.json"
    text = json.dumps({**json.loads(report.to_json()), "gpuSeconds": 3})
    replace_text(path, text, at=report.last_updated_time.timestamp())

    assert read_progress(path).report == report


def test_only_rank_0_keeps_the_file(path: Path) -> None:
    for rank in (1, 0):
        with open_reporter(None, rank=rank, files=ReportFiles(progress=path, steps=STEPS)) as reporter:
            with reporter.stage("train", 1):
                reporter.advance()

            assert path.exists() == (rank == 0)


@dataclass
class Told(NullSink):
    """Remembers what was said."""

    messages: list[str] = field(default_factory=list)

    def event(self, level: int, event: str, message: str, fields: Any) -> None:
        self.messages.append(message)


def test_a_file_that_cannot_be_written_is_said_once_and_does_not_end_the_run(path: Path) -> None:
    told = Told()
    sink = ProgressSink(path)
    path.parent.rmdir()

    with Reporter(TeeSink(told, sink)) as reporter:
        for _ in range(3):
            with reporter.stage("train", 1):
                reporter.advance()

    assert len(told.messages) == 1
    assert "is not written" in told.messages[0]
    assert str(path.parent) in told.messages[0]


def test_on_a_full_disk_the_time_of_the_report_still_moves(
    reporter: Reporter, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written is not known; that rank 0 goes on is."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with reporter.stage("train", 10):
        hour_ago = time.time() - 3600
        written = read(path)
        moment = datetime.datetime.fromtimestamp(hour_ago, datetime.UTC)
        stale = written.model_copy(update={"last_updated_time": moment})
        replace_text(path, stale.to_json(), at=hour_ago)
        clock.now += 60
        with monkeypatch.context() as full:
            full.setattr(Path, "write_text", fail)
            with pytest.raises(OSError, match="No space left"):
                reporter.advance()

        found = read(path)

    assert found.beat == written.beat
    assert found.last_updated_time.timestamp() > hour_ago + 3500


def test_the_clock_of_the_disk_is_not_asked(reporter: Reporter, path: Path) -> None:
    """That of a network claim may run ahead; a run that hangs would then be noticed late."""
    with reporter.stage("train", 10):
        pass

    found = path.stat()
    assert found.st_atime_ns == found.st_mtime_ns  # both were set, by rank 0
    assert abs(found.st_mtime - read(path).last_updated_time.timestamp()) < 0.001
