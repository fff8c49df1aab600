"""What a run tells, as JSON lines and on a terminal, and that library messages are neither lost nor in the way."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

from semires_trainer.sinks import JsonSink, Position, describe
from semires_trainer.telemetry import Phase, Reporter, null_reporter, open_reporter


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def json_reporter(stream: io.StringIO, clock: Clock, **keywords: Any) -> Reporter:
    return Reporter(JsonSink(stream, job="j", attempt=2, clock=clock), clock=clock, **keywords)


def position(**keywords: Any) -> Position:
    facts: dict[str, Any] = {
        "stage": "burn-in",
        "done": 40,
        "total": 960,
        "unit": "step",
        "values": {},
        "samples_per_second": None,
        "fraction": 0.1,
        "remaining_seconds": 250.0,
        "elapsed_seconds": 3.0,
    }
    return Position(**{**facts, **keywords})


def test_every_json_line_names_time_level_event_job_attempt_and_rank() -> None:
    stream = io.StringIO()
    reporter = json_reporter(stream, Clock())
    with reporter.stage("train", 2):
        reporter.advance(epoch=1, loss=0.5)
        reporter.message("Saved.", step=1)

    for line in lines_of(stream):
        assert list(line)[:6] == ["time", "level", "event", "job", "attempt", "rank"]
        assert (line["job"], line["attempt"], line["rank"]) == ("j", 2, 0)


def test_progress_lines_come_at_most_every_few_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    reporter = json_reporter(stream, clock)
    with reporter.stage("train", 100):
        for step in range(100):
            clock.now += 0.2
            reporter.advance(step=step, loss=1.0)

    events = [line["event"] for line in lines_of(stream)]

    assert events == ["stage_begin", *["progress"] * 4, "stage_end"]


def test_the_end_of_a_stage_says_where_it_ended_even_after_an_error() -> None:
    stream = io.StringIO()
    reporter = json_reporter(stream, Clock())
    with contextlib.suppress(RuntimeError), reporter.stage("train", 5):
        reporter.advance(step=1)
        raise RuntimeError

    last = lines_of(stream)[-1]

    assert (last["event"], last["done"], last["total"]) == ("stage_end", 1, 5)


def test_time_of_an_inner_stage_is_not_charged_to_the_outer_one() -> None:
    clock = Clock()
    reporter = Reporter(JsonSink(io.StringIO()), phases=[Phase(name="train", units=4)], clock=clock)
    with reporter.stage("train", 4):
        for _ in range(2):
            clock.now += 1.0
            reporter.advance()
            with reporter.stage("evaluate", 1):
                clock.now += 100.0
                reporter.advance()

        assert reporter.position().remaining_seconds == pytest.approx(2.0)


def test_images_per_second_follow_from_steps_and_images_per_step() -> None:
    clock = Clock()
    reporter = Reporter(JsonSink(io.StringIO()), clock=clock)
    with reporter.stage("train", 10, samples_per_unit=24):
        for _ in range(3):
            clock.now += 2.0
            reporter.advance()

        assert reporter.position().samples_per_second == pytest.approx(12.0)


def test_units_done_before_a_resume_count_as_done() -> None:
    clock = Clock()
    reporter = Reporter(JsonSink(io.StringIO()), phases=[Phase(name="train", units=10)], clock=clock)
    with reporter.stage("train", 10, done=8):
        clock.now += 3.0
        reporter.advance()

        assert reporter.position().done == 9
        assert reporter.position().remaining_seconds == pytest.approx(3.0)


def test_values_that_are_not_finite_become_null() -> None:
    stream = io.StringIO()
    reporter = json_reporter(stream, Clock())
    reporter.message("Loss.", loss=float("nan"), parts=[float("inf"), 1.5], path=Path("a"))

    line = lines_of(stream)[0]

    assert (line["loss"], line["parts"], line["path"]) == (None, [None, 1.5], "a")


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        pytest.param(
            {
                "values": {"epoch": 3, "epochs": 8, "step": 40, "steps": 120, "loss": 0.4123},
                "samples_per_second": 12.34,
            },
            "epoch 3/8  step 40/120  loss 0.412  12.3 img/s  ETA 4m10s",
            id="training",
        ),
        pytest.param({"remaining_seconds": None}, "step 40/960  ETA ?", id="nothing-measured"),
        pytest.param({"unit": "image", "total": 50}, "image 40/50  ETA 4m10s", id="images"),
    ],
)
def test_the_terminal_line_reads_like_a_sentence(keywords: dict[str, Any], text: str) -> None:
    assert describe(position(**keywords)) == text


def test_a_terminal_gets_bars_and_one_line_per_finished_stage() -> None:
    terminal = Terminal()
    with open_reporter(None, stream=terminal) as reporter:
        with reporter.stage("burn-in", 2):
            reporter.advance(loss=0.5)
            reporter.advance(loss=0.4)
        with pytest.raises(RuntimeError), reporter.stage("train", 2):
            raise RuntimeError

    text = terminal.getvalue()

    assert "burn-in: 2/2 steps in" in text
    assert "■" in text
    assert not text.startswith("{")


def test_text_that_looks_like_markup_is_shown_as_it_is() -> None:
    terminal = Terminal()
    with open_reporter(None, stream=terminal) as reporter:
        reporter.warning("[bold]x[/bold] spec.dataset[0]")

    assert "[bold]x[/bold] spec.dataset[0]" in terminal.getvalue()


def test_logging_and_warnings_go_through_the_reporter_and_are_given_back() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers = list(root.handlers)
    with warnings.catch_warnings(), open_reporter(None, stream=stream):
        warnings.simplefilter("always")
        warnings.warn("careful", stacklevel=1)
        logging.getLogger("timm.models").info("not shown")
        logging.getLogger("timm.models").error("shown")
        logging.getLogger("semires_trainer.data").info("ours")

    messages = [line["message"] for line in lines_of(stream)]

    assert "careful" in messages[0]
    assert messages[1:] == ["shown", "ours"]
    assert root.handlers == handlers


def test_other_ranks_say_nothing_but_errors() -> None:
    stream = io.StringIO()
    with open_reporter(None, rank=1, stream=stream) as reporter:
        with reporter.stage("train", 1):
            reporter.advance()
            reporter.warning("quiet")
        logging.getLogger("semires_trainer").warning("quiet")
        logging.getLogger("semires_trainer").error("loud")

    lines = lines_of(stream)

    assert [(line["message"], line["rank"]) for line in lines] == [("loud", 1)]


def test_a_null_reporter_accepts_everything() -> None:
    with null_reporter() as reporter, reporter.stage("train", 1):
        reporter.advance(loss=1.0)
        reporter.log_metrics(1, {"loss": 1.0})

        assert reporter.position().done == 1
