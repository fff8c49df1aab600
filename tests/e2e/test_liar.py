"""A container that lies to the operator."""

from __future__ import annotations

import json

import pytest
from e2e.stories import LIES, Believed
from e2e.world import World, condition_of
from testbed.waiting import wait_until

pytestmark = pytest.mark.timeout(1800)


def test_a_liar_is_not_believed(believed: Believed) -> None:
    shown = json.dumps(believed.shown)

    assert "99" not in shown
    assert "oIoU" not in shown


def test_lies_change_nothing_about_the_life_of_the_job(believed: Believed) -> None:
    status = believed.job["status"]

    assert (status["phase"], status["attempt"]) == ("Running", 1)
    assert condition_of(believed.job, "Running")["status"] == "True"


def test_lies_are_counted(world: World, believed: Believed) -> None:
    counted = world.query('sum(max_over_time(semires_operator_polls_total{result=~"invalid|too_long"}[1h]))')

    assert float(counted[0]["value"][1]) >= LIES


def test_a_deleted_job_is_gone_at_once_with_its_pod_and_its_series(world: World, believed: Believed) -> None:
    world.kubectl("delete", "srj", "liar", "--timeout=20s")
    wait_until("its pod is gone", lambda: not world.pods("liar"), seconds=60, every=0.5)

    wait_until("its series are gone", lambda: not world.query('semires_job_info{name="liar"}'), seconds=30, every=1)
