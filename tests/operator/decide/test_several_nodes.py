"""Jobs of more than one node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from semires_operator.decide.record import wants_log
from semires_operator.observed import Pod

MakeWorld = Callable[..., Any]


@pytest.mark.parametrize(
    "rank_0_is_first", [pytest.param(True, id="in the first pod"), pytest.param(False, id="in the second")]
)
def test_a_run_on_several_nodes_is_done_when_rank_0_is(make_world: MakeWorld, rank_0_is_first: bool) -> None:
    world = make_world(resources={"nodes": 2})
    world.until("Pending")
    world.go()
    first = world.training_pod()
    world.pods["second"] = replace(first, name="refcoco-a1-worker-1", uid="second", phase="Running", started=world.now)
    world.change_pod(first, name="refcoco-a1-worker-0")
    world.until("Running")
    world.nodes_work = False
    done, rank_0 = (world.pods["second"], first.uid) if rank_0_is_first else (world.pods[first.uid], "second")
    world.end_pod(done, 0, outcome={"results": [], "bestCheckpoint": None})
    world.change_child(world.child(), state="Succeeded", finished=world.now)
    world.go(20)
    assert (world.status["phase"], world.status["reason"]) == ("Running", "PodsEnding")

    world.end_pod(world.pods[rank_0], 0)
    world.go()
    assert (world.status["phase"], len(world.status["results"])) == ("Succeeded", 1)


def two_nodes(make_world: MakeWorld, **spec: Any) -> tuple[Any, Pod, Pod]:
    """A job on two nodes before its pods run, and the pods."""
    world = make_world(resources={"nodes": 2}, **spec)
    world.until("Pending")
    world.go()
    first = world.training_pod()
    world.nodes_work = False
    world.change_pod(first, name="refcoco-a1-worker-0", phase="Running", started=world.now)
    second = replace(first, name="refcoco-a1-worker-1", uid="second", phase="Pending", started=None)
    world.pods["second"] = second
    return world, world.pods[first.uid], second


def test_a_job_of_which_one_node_runs_waits_for_the_other(make_world: MakeWorld) -> None:
    world, _, _ = two_nodes(make_world, pendingDeadlineSeconds=600)
    world.go(130)
    assert (world.status["phase"], world.status["activeSeconds"]) == ("Stopping", 0)
    world.nodes_work = True
    world.until("Failed")

    assert world.status["reason"] == "PendingDeadlineExceeded"


def test_the_log_of_a_failure_is_that_of_the_pod_that_failed_first(make_world: MakeWorld) -> None:
    world, first, second = two_nodes(make_world)
    world.end_pod(second, 137, reason="OOMKilled")
    world.now += timedelta(seconds=5)
    world.end_pod(first, 150)

    assert wants_log(world.job, world.seen).name == "refcoco-a1-worker-1"


def test_the_pods_that_outlive_a_failed_one_are_removed(make_world: MakeWorld) -> None:
    world = make_world(resources={"nodes": 2})
    world.until("Pending")
    world.go()
    first = world.training_pod()
    world.pods["second"] = replace(first, name="refcoco-a1-worker-1", uid="second", phase="Running", started=world.now)
    world.until("Running")
    world.end_pod(world.pods["second"], 1)
    world.go(2)

    assert "refcoco-a1" not in world.children
    assert world.status["attempts"][0]["failure"]["exitCode"] == 1
    world.go(3)
    assert not world.live_attempts
