"""The log file of a run: every rank appends to it, whole lines, with job, attempt and rank; tracebacks too."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from semires_trainer.sinks import LogFileSink
from semires_trainer.telemetry import ReportFiles, logging_to, open_reporter

logger = logging.getLogger("semires_trainer.somewhere")


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".run" / "log.jsonl"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["json-lines", "bars"])
def test_rank_0_writes_all_it_says_beside_what_it_shows(path: Path, stream: io.StringIO) -> None:
    with open_reporter(None, job="j", attempt=3, stream=stream, files=ReportFiles(log=path)) as reporter:
        reporter.message("Saved.", step=1)
        with reporter.stage("train", 1):
            reporter.advance(loss=0.5)
        logger.warning("careful")

    lines = lines_of(path)

    assert [line["event"] for line in lines] == ["message", "stage_begin", "stage_end", "log"]
    assert {(line["job"], line["attempt"], line["rank"]) for line in lines} == {("j", 3, 0)}
    assert "Saved." in stream.getvalue()
    assert "careful" in stream.getvalue()


def test_other_ranks_write_warnings_and_errors_and_show_errors(path: Path) -> None:
    stream = io.StringIO()
    with open_reporter(None, job="j", rank=2, stream=stream, files=ReportFiles(log=path)) as reporter:
        reporter.message("quiet")
        with reporter.stage("train", 1):
            reporter.advance()
        logger.info("quiet")
        logger.warning("careful")
        logger.error("loud")

    assert [(line["level"], line["message"], line["rank"]) for line in lines_of(path)] == [
        ("warning", "careful", 2),
        ("error", "loud", 2),
    ]
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_an_exception_brings_its_traceback(path: Path) -> None:
    with open_reporter(None, stream=io.StringIO(), files=ReportFiles(log=path)):
        try:
            raise ValueError("bad") from KeyError("cause")
        except ValueError:
            logger.exception("This is a bug.")

    (line,) = lines_of(path)

    assert line["message"] == "This is a bug. [ValueError: bad]"
    assert "test_log_file.py" in line["traceback"]
    assert "KeyError: 'cause'" in line["traceback"]
    assert line["traceback"].endswith("ValueError: bad\n")


def test_what_is_logged_before_and_after_the_reporter_is_written_once(path: Path) -> None:
    with logging_to(path, job="j", attempt=2, rank=1):
        logger.error("before")
        with open_reporter(None, job="j", attempt=2, rank=1, stream=io.StringIO(), files=ReportFiles(log=path)):
            logger.error("meanwhile")
        logger.info("quiet")
        logger.error("after")

    lines = lines_of(path)

    assert [line["message"] for line in lines] == ["before", "meanwhile", "after"]
    assert {(line["job"], line["attempt"], line["rank"]) for line in lines} == {("j", 2, 1)}


def test_what_is_logged_without_a_reporter_is_also_said_on_stderr(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with logging_to(path):
        logger.error("loud")

    assert capsys.readouterr().err == "loud\n"
    assert [line["message"] for line in lines_of(path)] == ["loud"]


def append(path: Path, rank: int) -> None:
    sink = LogFileSink(path, job="j", rank=rank)
    for number in range(50):
        sink.event(logging.ERROR, "log", "x" * 30_000, {"number": number})
    sink.close()


def test_lines_of_several_processes_stay_whole(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append, args=(path, rank)) for rank in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    found = [(line["rank"], line["number"]) for line in lines_of(path)]

    assert sorted(found) == [(rank, number) for rank in range(4) for number in range(50)]


def test_a_later_attempt_appends(path: Path) -> None:
    for attempt in (1, 2):
        with open_reporter(None, attempt=attempt, stream=io.StringIO(), files=ReportFiles(log=path)) as reporter:
            reporter.message("Here.")

    assert [line["attempt"] for line in lines_of(path)] == [1, 2]


def test_a_full_disk_does_not_end_the_run() -> None:
    """/dev/full is a file whose writes fail with ENOSPC."""
    stream = io.StringIO()
    with open_reporter(None, stream=stream, files=ReportFiles(log=Path("/dev/full"))) as reporter:
        reporter.message("one")
        reporter.message("two")

    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]

    assert [messages[0], messages[2]] == ["one", "two"]
    assert "No space left on device" in messages[1]
    assert len(messages) == 3
