"""A job of two nodes, on pretended ones: the real scheduler and training-operator make and place its Workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testbed.bench import Bench, bench
from testbed.cluster import Object
from testbed.fake_nodes import FakeNodeCluster
from testbed.player import End, end_pod
from testbed.waiting import wait_until


@pytest.fixture
def place(own_fake_node_cluster: FakeNodeCluster, tmp_path: Path) -> Iterator[Bench]:
    with bench(own_fake_node_cluster, tmp_path) as made:
        yield made


@pytest.fixture
def submit(place: Bench) -> Any:
    """Start the operator, and a job whose Workers run for so long."""

    def begin(seconds: str) -> None:
        operator = place.operator(overlay="cluster")
        operator.start()
        operator.wait_until_ready()
        annotations = {"pytorchjob.testbed/seconds": seconds}
        place.submit(resources={"nodes": 2}, pod={"annotations": annotations}, preflight={"mode": "Skip"})

    return begin


def workers(place: Bench, attempt: int) -> list[Object]:
    """The pods of an attempt, by name."""
    found = place.api.list("pods", **{"semires.dev/job": "a", "semires.dev/attempt": str(attempt)})
    return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))


def variables(pod: Object) -> dict[str, str]:
    (container,) = pod["spec"]["containers"]
    return {one["name"]: one.get("value", "") for one in container["env"]}


def test_two_workers_on_two_nodes_find_each_other_and_succeed(place: Bench, submit: Any) -> None:
    submit("4s")
    place.wait_for_phase("Running")
    pods = workers(place, 1)
    place.wait_for_phase("Succeeded")

    assert [pod["metadata"]["name"] for pod in pods] == ["a-a1-worker-0", "a-a1-worker-1"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2
    given = [variables(pod) for pod in pods]
    assert [one["PET_NPROC_PER_NODE"] for one in given] == ["4", "4"]
    assert [one["PET_RDZV_BACKEND"] for one in given] == ["c10d", "c10d"]
    assert {one["PET_RDZV_CONF"] for one in given} == {"read_timeout=3600,join_timeout=3600"}
    assert {one["PET_RDZV_ENDPOINT"].rpartition(":")[0] for one in given} == {"a-a1-worker-0"}


def test_a_worker_that_has_lost_the_other_ends_the_attempt_and_both_begin_again(place: Bench, submit: Any) -> None:
    """What training-operator makes of a pod that is only deleted depends on who looks first: it may make it again."""
    submit("600s")
    place.wait_for_phase("Running")
    end_pod(place.api, workers(place, 1)[0], End(exit_code=150))
    status = place.wait("attempt 2 runs", lambda status: status["attempt"] == 2 and status["phase"] == "Running")

    wait_until("those of attempt 1 are gone", lambda: not workers(place, 1), seconds=30)
    assert len(workers(place, 2)) == 2
    (ended,) = status["attempts"]
    assert (ended["ended"], ended["counted"], status["freeRetries"]) == ("Failed", False, 1)
