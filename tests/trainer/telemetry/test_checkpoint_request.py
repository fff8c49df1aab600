"""A checkpoint on request: at most one a minute, none is forgotten, and a rank hears of each once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from semires_trainer.checkpoint_request import (
    Answer,
    CheckpointRequest,
    CheckpointRequests,
    pass_request,
    withdraw_request,
)
from semires_trainer.exposition import Attempt
from semires_trainer.orders import ControlFolder
from semires_trainer.watched import RunWatch


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def requests(clock: Clock) -> CheckpointRequests:
    return CheckpointRequests(clock=clock)


def test_the_first_request_is_passed_on_at_once(requests: CheckpointRequests) -> None:
    assert requests.ask() == Answer(state="Passed", seconds=0)
    assert not requests.take_due()


def test_a_request_while_one_is_under_way_is_answered_by_that_one(requests: CheckpointRequests, clock: Clock) -> None:
    requests.ask()
    clock.now = 500

    assert requests.ask() == Answer(state="Pending", seconds=0)

    requests.published()
    assert not requests.take_due()


def test_requests_within_the_minute_become_one_when_it_is_over(requests: CheckpointRequests, clock: Clock) -> None:
    requests.ask()
    requests.published()
    clock.now = 20
    assert requests.ask() == Answer(state="Deferred", seconds=40)
    clock.now = 59
    assert requests.ask() == Answer(state="Deferred", seconds=1)
    assert not requests.take_due()

    clock.now = 60

    assert [requests.take_due(), requests.take_due()] == [True, False]


def test_the_minute_counts_from_the_last_one_that_was_passed_on(requests: CheckpointRequests, clock: Clock) -> None:
    for start in (0, 60, 120):
        clock.now = start
        assert requests.ask().state == "Passed"
        clock.now = start + 59
        requests.published()
        assert requests.ask().state == "Deferred"
        clock.now = start + 60
        assert requests.take_due()
        requests.published()
        clock.now = start + 61
        assert requests.ask().state == "Deferred"
        clock.now = start + 119
        assert not requests.take_due()
        requests = CheckpointRequests(clock=clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint-request"


def test_a_rank_takes_each_request_once(path: Path) -> None:
    request = CheckpointRequest(path)
    taken = [request.take()]
    for number in range(1, 4):
        pass_request(path, number)
        taken += [request.take(), request.take()]

    assert taken == [False, True, False, True, False, True, False]
    assert path.read_text() == "3\n"


def test_a_rank_that_starts_again_hears_of_a_request_that_waits(path: Path) -> None:
    pass_request(path, 1)

    assert CheckpointRequest(path).take()


def test_a_request_that_was_withdrawn_is_none(path: Path) -> None:
    pass_request(path, 1)

    withdraw_request(path)
    withdraw_request(path)

    assert not CheckpointRequest(path).take()


@pytest.fixture
def watch(requests: CheckpointRequests, tmp_path: Path) -> RunWatch:
    """Its control folder is not there: nothing can be written to it."""
    attempt = Attempt(job="small", strategy="IOM", began=0.0)
    return RunWatch(control=ControlFolder(tmp_path / ".run"), attempt=attempt, requests=requests)


def test_a_request_that_the_disk_refuses_is_deferred_and_told(
    watch: RunWatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert watch.request_checkpoint() == {"state": "Deferred", "seconds": 60.0}

    assert "A request for a checkpoint can't be passed on; it is tried again." in caplog.text


def test_a_deferred_request_that_the_disk_refuses_is_tried_every_minute(watch: RunWatch, clock: Clock) -> None:
    watch.request_checkpoint()
    clock.now = 60
    watch.pass_due_request()
    assert not watch.control.checkpoint_request.exists()

    watch.control.path.mkdir()
    clock.now = 119
    watch.pass_due_request()
    assert not watch.control.checkpoint_request.exists()
    clock.now = 120
    watch.pass_due_request()

    assert watch.control.checkpoint_request.exists()


@pytest.mark.parametrize("ahead", [-3600.0, 0.0, 3600.0], ids=["behind", "in-step", "ahead"])
@pytest.mark.parametrize("later", [True, False], ids=["saved-after-it", "saved-before-it"])
def test_a_checkpoint_saved_after_a_request_answers_it_whatever_the_clock_of_the_disk(
    watch: RunWatch, clock: Clock, ahead: float, later: bool
) -> None:
    watch.control.path.mkdir()
    watch.request_checkpoint()
    request = watch.control.checkpoint_request
    asked = request.stat().st_mtime + ahead
    os.utime(request, (asked, asked))  # as a server with another clock stamps it

    watch.on_published(asked + 5 if later else asked - 5)

    assert request.exists() is not later
    assert watch.request_checkpoint()["state"] == ("Deferred" if later else "Pending")
