"""The page of a supervisor: what it adds to what rank 0 tells."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from semires_trainer.exposition import Attempt
from semires_trainer.orders import ControlFolder
from semires_trainer.progress_file import ProgressReport, replace_text
from semires_trainer.watched import RunWatch

HOUR_AGO = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)


@pytest.fixture
def watch(tmp_path: Path) -> RunWatch:
    """Rank 0 told an hour ago where it was."""
    control = ControlFolder(tmp_path)
    report = ProgressReport(stage="evaluate", step=16, steps=16, last_updated_time=HOUR_AGO, beat=3, started=True)
    replace_text(control.progress, report.to_json(), at=HOUR_AGO.timestamp())
    return RunWatch(control=control, attempt=Attempt(job="small", strategy="IOM", began=0.0))


def age(watch: RunWatch) -> datetime.timedelta:
    """Of what the page tells."""
    return datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(watch.progress()["lastUpdatedTime"])


def test_ranks_that_are_silent_leave_the_page_behind(watch: RunWatch) -> None:
    assert age(watch) > datetime.timedelta(minutes=59)
    assert watch.progress()["stage"] == "evaluate"


def test_while_results_are_published_the_page_moves(watch: RunWatch) -> None:
    watch.is_publishing = True

    assert age(watch) < datetime.timedelta(minutes=1)
    assert (watch.progress()["stage"], watch.progress()["step"]) == ("publish", 16)
    assert watch.health()["secondsSinceProgress"] < 60


def test_without_a_report_of_rank_0_nothing_moves(watch: RunWatch) -> None:
    """Its zeros would be taken for the run's."""
    watch.control.progress.unlink()
    watch.stage = "fetch"
    watch.is_publishing = True

    assert (watch.progress()["stage"], watch.progress()["lastUpdatedTime"]) == ("fetch", None)
