"""Each phase and each thing that may happen in it: where it leads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from semires_operator.actions import AskCheckpoint, Create, Delete
from semires_operator.conditions import Finding, merged
from semires_operator.decide.table import ATTEMPT, BETWEEN, JOB
from semires_operator.observed import Backend

MakeWorld = Callable[..., Any]


def pending(world: Any) -> None:
    world.until("Pending")
    world.go()
    world.idle = True
    world.change_pod(world.training_pod(), phase="Pending")
    world.look()


def preflight(world: Any) -> None:
    world.until("Preflight")
    world.tick()
    world.look()


def queued(world: Any) -> None:
    world.kueue = True
    world.until("Queued")


def running(world: Any) -> None:
    world.until("Running")
    world.go()


def stopping(world: Any) -> None:
    running(world)
    world.hung = True
    world.edit(suspend=True)
    world.go()


def suspended(world: Any) -> None:
    running(world)
    world.edit(suspend=True)
    world.until("Suspended")


def retrying(world: Any) -> None:
    running(world)
    world.end_pod(world.training_pod(), 1)
    world.until("Retrying")


def succeeded(world: Any) -> None:
    world.until("Succeeded")


def failed(world: Any) -> None:
    running(world)
    world.end_pod(world.training_pod(), 2)
    world.until("Failed")


def suspend(world: Any) -> None:
    world.edit(suspend=True)


def resume(world: Any) -> None:
    world.edit(suspend=False)


def break_spec(world: Any) -> None:
    world.edit(output=5)


def delete_child(world: Any) -> None:
    for name in list(world.children):
        world.delete(name)


def fail_pod(world: Any) -> None:
    pod = list(world.pods.values())[-1]
    if pod.alive:
        world.end_pod(pod, 1)


def drain(world: Any) -> None:
    for pod in list(world.pods.values()):
        if pod.alive:
            world.evict(pod)


def lose_backend(world: Any) -> None:
    world.backend = Backend(pytorchjobs=False)


def hold_back(world: Any) -> None:
    world.kueue = True
    for child in world.children.values():
        if "-a" in child.name and not child.ended:
            world.change_child(child, suspended_by_others=True, state="Suspended")


def pass_an_hour(world: Any) -> None:
    world.now = world.now.replace(hour=world.now.hour + 1)


PHASES: dict[str, Callable[[Any], None]] = {
    "Pending": pending,
    "Queued": queued,
    "Preflight": preflight,
    "Running": running,
    "Stopping": stopping,
    "Suspended": suspended,
    "Retrying": retrying,
    "Succeeded": succeeded,
    "Failed": failed,
}
EVENTS: dict[str, Callable[[Any], None]] = {
    "suspend": suspend,
    "resume": resume,
    "break-spec": break_spec,
    "delete-child": delete_child,
    "fail-pod": fail_pod,
    "drain": drain,
    "lose-backend": lose_backend,
    "hold-back": hold_back,
    "an-hour-passes": pass_an_hour,
}
# Where 30 seconds after the event have led. An attempt that is over is seen as Retrying, Preflight, Pending or Running
# of the next one, by how long it waits: "Next".
TABLE: dict[str, dict[str, str]] = {
    "Pending": {
        "suspend": "Suspended",
        "delete-child": "Next",
        "fail-pod": "Next",
        "drain": "Next",
        "hold-back": "Queued",
    },
    "Queued": {"suspend": "Suspended", "delete-child": "Next"},
    "Preflight": {
        "suspend": "Suspended",
        "resume": "Next",
        "delete-child": "Next",
        "fail-pod": "Next",
        "drain": "Next",
        "lose-backend": "Pending",
        "hold-back": "Queued",
        "an-hour-passes": "Next",
        "break-spec": "Failed",
    },
    "Running": {
        "suspend": "Suspended",
        "delete-child": "Next",
        "fail-pod": "Next",
        "drain": "Next",
        "hold-back": "Queued",
    },
    "Stopping": {
        "resume": "Running",
        "delete-child": "Suspended",
        "fail-pod": "Suspended",
        "drain": "Suspended",
        "hold-back": "Suspended",
        "an-hour-passes": "Suspended",
    },
    "Suspended": {"resume": "Next", "break-spec": "Failed"},
    "Retrying": {
        "suspend": "Suspended",
        "resume": "Next",
        "delete-child": "Next",
        "fail-pod": "Next",
        "drain": "Next",
        "lose-backend": "Pending",
        "hold-back": "Queued",
        "an-hour-passes": "Next",
        "break-spec": "Failed",
    },
    "Succeeded": {},
    "Failed": {},
}
"""Phase -> event -> phase; what is not named stays as it is."""
NEXT = {"Retrying", "Preflight", "Pending", "Running"}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("event", EVENTS)
def test_where_each_event_leads_in_each_phase(world: Any, phase: str, event: str) -> None:
    PHASES[phase](world)
    assert world.status["phase"] == phase
    EVENTS[event](world)
    world.go(6)

    expected = TABLE[phase].get(event, phase)
    assert world.status["phase"] == expected or (expected == "Next" and world.status["phase"] in NEXT)
    assert len(world.live_attempts) <= 1


def test_every_rule_has_a_name_of_its_own() -> None:
    names = [rule.name for rule in (*JOB, *ATTEMPT, *BETWEEN)]

    assert len(names) == len(set(names))


def test_a_spec_that_breaks_while_pods_run_is_told_and_touches_nothing(world: Any) -> None:
    running(world)
    break_spec(world)
    world.go(2)

    assert world.status["phase"] == "Running"
    assert world.condition("Degraded")["reason"] == "SpecInvalid"
    assert "spec.output" in world.condition("Degraded")["message"]


def test_a_spec_that_is_repaired_starts_the_job(world: Any, worlds: Any) -> None:
    break_spec(world)
    world.look()
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "SpecInvalid")
    assert "completionTime" not in world.status

    world.edit(output=worlds.SPEC["output"])
    world.until("Succeeded")
    assert world.condition("Failed")["status"] == "False"


def test_a_lower_limit_fails_a_job_that_waits_for_its_retry(world: Any) -> None:
    retrying(world)
    world.edit(failurePolicy={"backoffLimit": 0})
    world.look()

    assert (world.status["phase"], world.status["reason"]) == ("Failed", "BackoffLimitExceeded")


def test_what_is_written_down_comes_before_what_is_done(world: Any) -> None:
    decision = world.decide()

    assert decision.status["attempt"] == 1
    assert [type(action) for action in decision.actions] == [Create]
    assert decision.actions[0].body["metadata"]["name"] == "refcoco-p1"


def test_a_stop_asks_first_and_deletes_afterwards(world: Any) -> None:
    running(world)
    world.hung = True
    world.edit(suspend=True)
    asked = world.look()
    world.saved_at = world.now
    deleted = world.decide()

    assert asked.actions == (AskCheckpoint(pod="refcoco-a1-master-0", ip="10.0.0.1"),)
    assert [type(action) for action in deleted.actions] == [Delete]
    assert deleted.status["stopping"]["deadline"] == world.now.isoformat().replace("+00:00", "Z")


def test_a_child_that_comes_to_light_while_suspended_is_deleted(world: Any) -> None:
    suspended(world)
    late = world.bodies[-1]
    world._create(late)
    world.go(3)

    assert world.status["phase"] == "Suspended"
    assert "refcoco-a1" not in world.children


def test_a_child_that_comes_to_light_after_the_end_is_deleted(world: Any) -> None:
    succeeded(world)
    world.children.clear()
    world._create(world.bodies[-1])
    world.look()

    assert "refcoco-a1" not in world.children


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        pytest.param("False", "True", True, id="flip"),
        pytest.param("True", "True", False, id="same"),
        pytest.param("Unknown", "False", True, id="known-now"),
    ],
)
def test_a_conditions_time_moves_only_when_it_flips(worlds: Any, before: str, after: str, moved: bool) -> None:
    later = worlds.START.replace(hour=13)
    first = merged((), [Finding(type="Running", status=before, reason="A")], now=worlds.START, generation=1)
    second = merged(first, [Finding(type="Running", status=after, reason="B")], now=later, generation=2)

    assert second[0].last_transition_time == (later if moved else worlds.START)
    assert (second[0].reason, second[0].observed_generation) == ("B", 2)


def test_conditions_of_a_newer_operator_are_kept(worlds: Any) -> None:
    first = merged((), [Finding(type="Audited", status="True", reason="A")], now=worlds.START, generation=1)
    second = merged(first, [Finding(type="Running", status="True", reason="A")], now=worlds.START, generation=1)

    assert [condition.type for condition in second] == ["Running", "Audited"]


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [pytest.param(1, 10, id="first"), pytest.param(2, 20, id="second"), pytest.param(8, 600, id="longest")],
)
def test_the_wait_before_a_repetition_doubles(make_world: MakeWorld, failures: int, seconds: int) -> None:
    world = make_world(failurePolicy={"backoffLimit": 20})
    for _ in range(failures):
        world.until("Running")
        world.end_pod(world.training_pod(), 1)
        world.until("Retrying")

    assert world.requeue == pytest.approx(seconds, abs=1)


def test_an_attempt_that_ran_for_long_starts_the_waits_over(make_world: MakeWorld) -> None:
    world = make_world(failurePolicy={"backoffLimit": 20})
    for _ in range(5):
        world.until("Running")
        world.end_pod(world.training_pod(), 1)
        world.until("Retrying")
    world.until("Running")
    world.now += world.now - world.now.replace(hour=world.now.hour - 1)
    world.end_pod(world.training_pod(), 1)
    world.until("Retrying")

    assert world.requeue == pytest.approx(10, abs=1)


@pytest.mark.parametrize(("wait", "requeue"), [(120, 5), (2, 2)])
def test_a_stop_is_looked_at_when_its_deadline_comes(world: Any, wait: float, requeue: float) -> None:
    world.settings = replace(world.settings, checkpoint_wait_seconds=wait)
    running(world)
    world.hung = True
    world.edit(suspend=True)
    world.look()

    assert world.status["phase"] == "Stopping"
    assert world.requeue == requeue
