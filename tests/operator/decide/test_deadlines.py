"""What counts as running, as waiting, and as too long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from semires_operator.observed import Workload

MakeWorld = Callable[..., Any]


HOURS = timedelta(hours=60)
"""An outage of the operator."""


def test_time_in_which_nobody_looked_and_nothing_ran_does_not_count(world: Any) -> None:
    world.edit(activeDeadlineSeconds=172800)
    world.until("Running")
    world.go(3)
    pod = world.training_pod()
    world.vanish(pod)
    world.change_child(world.child(), state="Failed", finished=world.now)
    world.now += HOURS
    world.look()

    assert world.status["phase"] == "Retrying"
    assert world.status["activeSeconds"] < 600


def test_time_in_a_queue_does_not_count_although_nobody_saw_the_eviction(world: Any) -> None:
    world.kueue = True
    world.edit(activeDeadlineSeconds=172800)
    world.until("Queued")
    world.change_child(world.child(), state="Created", suspended_by_others=False)
    world.until("Running")
    world.go(3)
    world.vanish(world.training_pod())
    world.change_child(world.child(), state="Suspended", suspended_by_others=True)
    world.now += HOURS
    world.look()

    assert world.status["phase"] == "Queued"
    assert world.status["activeSeconds"] < 600


def test_a_deadline_of_waiting_says_what_was_waited_for(world: Any) -> None:
    world.until("Pending")
    world.idle = True
    world.go()
    world.change_pod(world.training_pod(), phase="Pending", unschedulable="0/3 nodes: 3 Insufficient nvidia.com/gpu.")
    world.edit(pendingDeadlineSeconds=30)
    world.until("Failed")

    assert world.status["reason"] == "PendingDeadlineExceeded"
    assert "Insufficient nvidia.com/gpu" in world.status["message"]
    assert world.status["message"].count("did not run within") == 1


def test_a_stop_at_a_deadline_keeps_its_pace(world: Any) -> None:
    world.edit(activeDeadlineSeconds=60)
    world.until("Running")
    world.hung = True
    world.until("Stopping")
    world.nodes_work = False
    world.go(30)

    assert world.status["phase"] == "Stopping"
    assert world.requeue >= 5


def test_a_check_that_waits_for_its_secret_waits_as_long_as_it_takes(world: Any) -> None:
    world.look()
    world.idle = True
    world.go(2000)

    assert (world.status["phase"], world.status["attempt"]) == ("Preflight", 1)


def test_a_check_that_hangs_is_ended_and_repeated(world: Any) -> None:
    world.edit(preflight={"deadlineSeconds": 60})
    world.look()
    world.idle = True
    world.tick()
    (pod,) = world.pods.values()
    world.change_pod(pod, phase="Running", started=world.now)
    world.nodes_work = False
    world.go(40)
    world.nodes_work, world.idle = True, False
    world.until("Running")

    (ended,) = world.status["attempts"]
    assert (ended["failure"]["reason"], ended["counted"]) == ("PreflightDeadlineExceeded", True)
    assert "refcoco-p1" not in world.children


def test_a_check_that_somebody_holds_back_is_told(world: Any) -> None:
    world.look()
    world.idle = True
    check = world.children["refcoco-p1"]
    world.change_child(check, state="Suspended", suspended_by_others=True)
    world.workload = Workload(name="job-refcoco-p1", admitted=False, reason="Pending", message="quota is used up")
    world.go()

    assert (world.status["phase"], world.status["reason"]) == ("Queued", "Queued")
    assert "quota is used up" in world.status["message"]


def test_a_check_that_is_stuck_can_be_left_out(world: Any) -> None:
    world.look()
    world.idle = True
    world.go(3)
    world.edit(preflight={"mode": "Skip"})
    world.look()
    world.idle = False
    world.until("Running")

    assert (world.status["attempt"], world.status["preflight"]["skipped"]) == (1, True)
    assert "refcoco-p1" not in world.children
