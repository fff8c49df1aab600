"""The operator itself, after all stories."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from e2e.stories import Believed, Pair, Survived
from e2e.world import World, moment
from testbed import demo_install
from testbed.cluster import Object

pytestmark = pytest.mark.timeout(1800)

Say = Callable[[str], None]
MIB = 1 << 20
MOST_IDLE_BYTES = 110 * MIB
ALL_VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
FOR_OTHER_CLUSTERS = {
    ("semires.dev", "semiresjobs", "delete"),
    ("batch", "jobs", "delete"),
    ("batch", "jobs", "get"),
    ("", "nodes", "get"),
    ("kueue.x-k8s.io", "workloads", "list"),
    ("kueue.x-k8s.io", "workloads", "watch"),
}
"""Rights that none of these stories needs: ttlSecondsAfterFinished, a stop in the check, a name that is taken, a lost
node, Kueue. Those of tests/operator do."""


def test_the_operator_needs_little_memory(world: World, pair: Pair, say: Say) -> None:
    used = {pod["metadata"]["name"]: world.memory_of(pod) for pod in world.operator_pods()}
    say("; ".join(f"{name}: {size / MIB:.0f} MiB" for name, size in used.items()))

    assert max(used.values()) <= MOST_IDLE_BYTES


def test_the_operator_was_never_refused_anything(world: World, chain: Object, pair: Pair) -> None:
    # An earlier operator of a cluster that is kept may have lost its rights before its end.
    began = moment(chain["metadata"]["creationTimestamp"])
    refused = [
        (event["verb"], event["objectRef"])
        for event in world.cluster.audited(demo_install.ACCOUNT, verbs=ALL_VERBS)
        if event["responseStatus"].get("code") == 403 and moment(event["requestReceivedTimestamp"]) >= began
    ]

    assert refused == []


def test_the_operator_has_no_right_that_it_does_not_use(
    world: World, survived: Survived, believed: Believed, denied: Object
) -> None:
    used = {right_of(event) for event in world.cluster.audited(demo_install.ACCOUNT, verbs=ALL_VERBS)}
    role = world.cluster.get("clusterrole", demo_install.NAME)
    lease = world.cluster.get("role", f"{demo_install.NAME}-lease", "-n", demo_install.NAMESPACE)

    assert set(rights_of(role, lease)) - used == FOR_OTHER_CLUSTERS


def right_of(event: Object) -> tuple[str, str, str]:
    """API group, resource and verb of an audited request."""
    about = event["objectRef"]
    resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
    return about.get("apiGroup", ""), resource, event["verb"]


def rights_of(*roles: Object) -> Iterator[tuple[str, str, str]]:
    """What the rules of roles grant."""
    for rule in itertools.chain.from_iterable(role["rules"] for role in roles):
        yield from itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])


def test_no_replica_crashed(world: World, pair: Pair) -> None:
    restarts: list[Any] = [
        status["restartCount"] for pod in world.operator_pods() for status in pod["status"]["containerStatuses"]
    ]

    assert restarts == [0, 0]
