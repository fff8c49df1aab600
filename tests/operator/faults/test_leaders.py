"""Two replicas: one works, and the other takes over when it dies or sleeps."""

from __future__ import annotations

import logging
import signal
import time

import pytest
from testbed.bench import Bench
from testbed.operators import SHIPPED_LEASE, OperatorProcess
from testbed.player import End, Script
from testbed.waiting import wait_until

LONGEST_TAKEOVER = 20.0
SHORT = {"LEASE_SECONDS": "3", "LEASE_RENEW_SECONDS": "2", "LEASE_RETRY_SECONDS": "0.5"}
logger = logging.getLogger(__name__)


def leader_of(place: Bench, *, beside: OperatorProcess | None = None) -> OperatorProcess:
    others = [operator for operator in place.operators if operator is not beside]
    return wait_until(
        "a replica leads",
        lambda: next((operator for operator in others if operator.leads), None),
        seconds=60,
        seen=lambda: " ".join(operator.tail() for operator in others),
    )


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.long)])
def test_another_takes_over_within_twenty_seconds_and_nothing_is_made_twice(place: Bench, times: int) -> None:
    """Each time a job is in the middle of its training."""
    place.play(Script(training=lambda attempt: End(after=3)))
    for name in ("one", "two"):
        place.operator(name, **SHIPPED_LEASE).start()
    jobs = [f"j{number}" for number in range(times)]
    for job in jobs:
        leader = leader_of(place)
        for operator in place.operators:  # one that has just been started does not know the Lease yet
            operator.wait_until_ready()
        place.submit(job)
        place.wait("it trains", lambda status: status.get("phase") == "Running", name=job)
        leader.kill()
        killed = time.monotonic()
        leader_of(place, beside=leader)
        logger.info("Takeover in %.1f s.", time.monotonic() - killed)

        assert time.monotonic() - killed <= LONGEST_TAKEOVER
        assert place.wait_for_phase("Succeeded", name=job)["attempt"] == 1

    assert place.made("pytorchjobs") == [f"{job}-a1" for job in jobs]
    assert place.made("jobs") == [f"{job}-p1" for job in jobs]


def test_a_leader_that_slept_beyond_its_lease_ends_without_a_write(place: Bench) -> None:
    """It wakes up in the belief to lead, with a job that has changed meanwhile."""
    place.play(Script(training=lambda attempt: None))
    for name in ("one", "two"):
        place.operator(name, **SHORT).start()
    sleeper = leader_of(place)
    place.submit()
    place.wait_for_phase("Running")
    sleeper.signal(signal.SIGSTOP)
    leader_of(place, beside=sleeper)
    place.suspend()
    place.wait("it is suspended", lambda status: status.get("phase") == "Suspended")
    place.proxies[sleeper.name].forget()
    sleeper.signal(signal.SIGCONT)

    assert sleeper.exit_code(seconds=20) == 1
    assert place.writes(sleeper.name) == []
    told = [one.status for one in place.proxies[sleeper.name].exchanges() if one.request.writes]
    assert all(status in (0, 409) for status in told)
    assert place.status()["phase"] == "Suspended"
