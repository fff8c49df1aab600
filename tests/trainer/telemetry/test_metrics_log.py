"""metrics.jsonl has one line a step, also after a run was killed and went on from an earlier checkpoint."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from semires_trainer.metrics_log import MetricsLog, read_records, series
from semires_trainer.telemetry import open_reporter


def write_steps(output: Path, first: int, last: int, *, resume_step: int = 0) -> None:
    log = MetricsLog(output, resume_step=resume_step, tensorboard=False)
    for step in range(first, last + 1):
        log.log(step, {"train/loss": float(step)}, stage="train")
    log.close()


def test_a_resumed_run_replaces_what_was_logged_beyond_its_checkpoint(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 9)
    write_steps(tmp_path, 6, 8, resume_step=5)

    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_fresh_run_begins_an_empty_file(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, 9)
    write_steps(tmp_path, 1, 2)

    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-9])

    assert [record["step"] for record in read_records(path)] == [1, 2]

    write_steps(tmp_path, 3, 3, resume_step=2)

    assert [record["step"] for record in read_records(path)] == [1, 2, 3]


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')

    with pytest.raises(json.JSONDecodeError):
        read_records(path)


def test_values_that_are_not_finite_are_null_and_left_out_of_a_series(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=False)
    log.log(1, {"loss": float("nan")})
    log.log(2, {"loss": 0.5})
    log.close()

    records = read_records(tmp_path / "metrics.jsonl")

    assert records[0]["loss"] is None
    assert series(records, "loss") == ([2], [0.5])


def test_a_reporter_writes_values_with_their_stage_to_the_file_and_to_tensorboard(tmp_path: Path) -> None:
    with open_reporter(tmp_path, stream=io.StringIO()) as reporter, reporter.stage("burn-in", 1):
        reporter.log_metrics(10, {"burn-in/loss": 0.25})

    records = read_records(tmp_path / "metrics.jsonl")

    assert [(r["step"], r["stage"], r["burn-in/loss"]) for r in records] == [(10, "burn-in", 0.25)]
    assert list((tmp_path / "events").glob("events.out.tfevents.*"))
