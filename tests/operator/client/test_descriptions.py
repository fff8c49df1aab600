"""What people read about jobs: on wide and narrow terminals, without colour, and whatever stands in a log."""

from __future__ import annotations

import io
import json
from datetime import UTC, timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console, RenderableType

from semires_operator.cli import pictures
from semires_operator.cli.advice import next_steps
from semires_operator.cli.description import Description, describe_job
from semires_operator.cli.job_table import job_lines
from semires_operator.cli.log_lines import render_line
from semires_operator.cli.narrator import Narrator
from semires_operator.cli.words import PLAIN_BLOCKS, bar
from semires_operator.client import Job
from semires_operator.client.model import job_of

JOBS = [pictures.queued(), pictures.running(), pictures.failed(), pictures.succeeded()]
SAMPLES = [pytest.param(job, id=job.status.phase) for job in JOBS]
NOW = pictures.NOW


def printed(*parts: RenderableType, width: int = 100) -> str:
    out = Console(file=io.StringIO(), width=width, highlight=False)
    for part in parts:
        out.print(part)
    return out.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def described(job: Job, *, width: int = 100, **given: Any) -> str:
    return printed(describe_job(Description(job=job, events=given.pop("events", []), now=NOW, **given)), width=width)


def test_a_running_job_tells_how_far_how_good_and_what_to_do() -> None:
    text = described(pictures.running())

    for words in (
        *("Running (Training)", "43 %  3h02m left", "train, epoch 12 of 40, step 5,120 of 17,040"),
        *("oIoU 52.18", "step 5,000, 4m ago", "1  Lost", "semires logs refcoco-1pct -n vision -f"),
    ):
        assert words in text


def test_a_failed_job_tells_field_remedy_and_log() -> None:
    text = described(pictures.failed(), zone=UTC)

    assert "StorageDenied: s3://models answered AccessDenied" in text
    assert "field spec.proposals.sam.weights, exit code 5, on node cpu-2" in text
    assert "11:48:40" in text
    assert "Check the keys in the Secret" in text


def test_a_succeeded_job_tells_figures_per_split() -> None:
    lines = described(pictures.succeeded()).splitlines()

    head = next(line for line in lines if line.split()[:1] == ["model"])
    row = next(line for line in lines if line.split()[:1] == ["teacher"])
    assert head.split() == ["model", "val", "testA", "testB"]
    assert row.split() == ["teacher", "54.93/58.31", "58.70/61.42", "49.65/54.08"]


@pytest.mark.parametrize("job", SAMPLES)
@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(job: Job, width: int) -> None:
    text = described(job, width=width) + printed(*job_lines([job], NOW, wide=True, width=width), width=width)

    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [30, 50, 70, 90, 150])
def test_a_narrow_list_keeps_name_and_phase(width: int) -> None:
    lines = [line.plain for line in job_lines(JOBS, NOW, wide=True, namespaces=width > 60, width=width)]

    assert "PHASE" in lines[0]
    assert all(len(line) <= width for line in lines)
    assert all(job.name in line for job, line in zip(JOBS, lines[1:], strict=True))


def test_without_a_terminal_nothing_is_coloured() -> None:
    assert "\x1b" not in described(pictures.failed())


def test_without_utf_8_the_bar_is_plain() -> None:
    assert bar(50, width=4, blocks=PLAIN_BLOCKS).plain == "##--"


def test_markup_and_control_characters_of_others_are_text() -> None:
    document = dict(pictures.running().document)
    document["status"] = {**document["status"], "message": "[red]a[/red] \x1b[31mb\u202e"}

    assert "[red]a[/red] [31mb\n" in described(job_of(document))


def test_a_stale_trainer_is_told(make_job) -> None:
    progress = {"progressPercentage": 5, "stale": True, "lastUpdatedTime": (NOW - timedelta(minutes=3)).isoformat()}

    assert "can't be asked; this was told 3m ago" in described(make_job(phase="Running", progress=progress))


def test_a_change_that_the_operator_has_not_seen_is_told(make_job) -> None:
    job = make_job(generation=2, observedGeneration=1, phase="Running")

    assert "has not seen the last change of the spec" in described(job)


def test_a_job_that_nobody_looks_at_asks_for_the_operator(make_job) -> None:
    steps = next_steps(make_job(observedGeneration=0), NOW)

    assert len(steps) == 1
    assert "No operator has looked at this job" in steps[0]


def test_a_true_degraded_condition_brings_its_remedy(make_job, make_condition) -> None:
    job = make_job(phase="Running", reason="Training", conditions=[make_condition("Degraded", reason="PodStuck")])

    assert next_steps(job, NOW)[0].startswith("Repair or remove the node.")


def test_reasons_that_are_not_known_bring_commands_only(make_job) -> None:
    assert next_steps(make_job(phase="Suspended", reason="Novel"), NOW) == [
        "Go on from the last checkpoint: `semires resume refcoco -n vision`."
    ]


def test_a_repeated_message_is_told_once() -> None:
    assert described(pictures.failed()).count("answered AccessDenied") == 2  # the failure, and its log


LOGGED = {"time": "2026-11-25T11:59:57+00:00", "level": "info", "event": "message", "rank": 0, "message": "Hello"}
STAGE = {"stage": "train", "done": 3, "total": 9, "unit": "step", "elapsed_seconds": 61.0, "run_fraction": 0.5}


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        pytest.param({}, "11:59:57 Hello", id="message"),
        pytest.param({"rank": 2}, "11:59:57 [rank 2] Hello", id="other-rank"),
        pytest.param({"rank": None}, "11:59:57 Hello", id="supervisor"),
        pytest.param({"event": "stage_begin", **STAGE}, "11:59:57 ▶ train: 9 steps", id="begin"),
        pytest.param({"event": "stage_end", **STAGE}, "11:59:57 ■ train: 3/9 steps in 1m01s", id="end"),
        pytest.param(
            {"event": "progress", **STAGE, "loss": 0.25, "remaining_seconds": 61, "samples_per_second": 9.5},
            "11:59:57  50 %  train  step 3/9  message Hello  loss 0.25  9.5 img/s  ETA 1m01s",
            id="progress",
        ),
        pytest.param({"event": "progress", "stage": "train", "done": "x"}, "11:59:57 Hello", id="odd-progress"),
        pytest.param({"time": "yesterday"}, "         Hello", id="odd-time"),
        pytest.param({"time": 7}, "         Hello", id="no-time"),
        pytest.param({"message": "a\x1b[2Jb\nc"}, "11:59:57 a[2Jb c", id="control-characters"),
        pytest.param({"message": None, "event": "x"}, "11:59:57 None", id="no-message"),
    ],
)
def test_a_line_of_the_trainer_is_readable(record: dict[str, Any], shown: str) -> None:
    assert render_line(json.dumps({**LOGGED, **record}), UTC).plain == shown


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("Segmentation fault", id="words"),
        pytest.param('{"half": ', id="half"),
        pytest.param("[1, 2]", id="list"),
        pytest.param('{"a":' * 100_000, id="deep"),
    ],
)
def test_a_line_of_others_stays_as_it_is(text: str) -> None:
    assert render_line(text, UTC).plain == text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e400"])
def test_numbers_that_are_none_break_no_line(number: str) -> None:
    facts = ", ".join(f'"{name}": {json.dumps(value)}' for name, value in {**STAGE, "event": "progress"}.items())

    assert render_line(f'{{{facts}, "done": {number}, "level": "info"}}', UTC).plain


def test_a_traceback_is_indented_below() -> None:
    record = {**LOGGED, "event": "log", "level": "error", "traceback": "Traceback:\n  File x"}

    assert render_line(json.dumps(record), UTC).plain.splitlines()[1:] == [
        "         Traceback:",
        "           File x",
    ]


def test_each_turn_is_told_once(make_job) -> None:
    out = Console(file=io.StringIO(), width=80, highlight=False)
    with Narrator(out) as narrator:
        for version, phase in enumerate(("Pending", "Running", "Running", "Succeeded")):
            narrator.tell(make_job(version=version, phase=phase, message="x"))

    assert out.file.getvalue().splitlines() == ["Pending: x", "Running: x", "Succeeded: x"]  # type: ignore[attr-defined]


def test_on_a_terminal_progress_is_told_live(make_job) -> None:
    out = Console(file=io.StringIO(), width=80, force_terminal=True, _environ={})
    progress = {"stage": "train", "progressPercentage": 43, "estimatedRemainingSeconds": 60}
    with Narrator(out) as narrator:
        narrator.tell(make_job(phase="Running", progress=progress))

    assert "43 %" in out.file.getvalue()  # type: ignore[attr-defined]


def test_the_pictures_of_the_documentation_are_up_to_date() -> None:
    result = CliRunner().invoke(pictures.main, ["--check"])

    assert result.exit_code == 0, result.output


def test_pictures_fetch_nothing() -> None:
    for name, content in pictures.pictures().items():
        assert "http" not in content.replace("http://www.w3.org/2000/svg", ""), name
