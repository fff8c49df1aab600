"""From any state, whatever happens in any order, the job ends as a simple model says. The operator may die at any
write."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from semires_operator.decide import decide
from semires_operator.observed import Refusal
from semires_operator.seen import status_of


def limits(examples: int) -> settings:
    """The same lives in every run; a failure is told as it was found, since shrinking it takes minutes."""
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


PATIENCE = 700
"""Ticks in which everything has come to rest: the longest back-off, a stop, a stuck pod and a whole run."""


class Life(RuleBasedStateMachine):
    """The cluster in memory, and everything that may happen in it."""

    worlds: ClassVar[ModuleType]

    def __init__(self) -> None:
        super().__init__()
        self.world: Any = self.worlds.World()
        self.world.edit(failurePolicy={"backoffLimit": 2}, preflight={"mode": "Run"})
        self.deleted: set[str] = set()

    @rule(ticks=st.integers(1, 6))
    def time_passes(self, ticks: int) -> None:
        self.world.go(ticks)

    @rule()
    def time_passes_without_an_operator(self) -> None:
        self.world.tick()

    @rule()
    def the_operator_dies_before_it_writes(self) -> None:
        self.world.look(lose_status=True)

    @rule(after=st.integers(0, 1))
    def the_operator_dies_before_it_acts(self, after: int) -> None:
        self.world.look(lose_actions_after=after)

    @rule(suspend=st.booleans())
    def the_user_suspends_or_resumes(self, suspend: bool) -> None:
        self.world.edit(suspend=suspend)

    @rule(mode=st.sampled_from(["Run", "Skip"]))
    def the_user_edits(self, mode: str) -> None:
        self.world.edit(preflight={"mode": mode})

    @precondition(lambda self: self.world.spec.get("suspend"))
    @rule(image=st.sampled_from(["registry.example/a:1", "registry.example/b:1"]))
    def the_user_edits_what_attempts_run_by(self, image: str) -> None:
        self.world.edit(image=image)

    @precondition(lambda self: self.world.live_attempts)
    @rule(code=st.sampled_from([1, 137, 143, 150]))
    def the_trainer_ends(self, code: int) -> None:
        pod = self.world.training_pod()
        if pod.phase == "Running":
            self.world.end_pod(pod, code)

    @precondition(lambda self: self.world.live_attempts)
    @rule(grace=st.sampled_from([5.0, 30.0]))
    def the_pod_is_drained(self, grace: float) -> None:
        self.world.evict(self.world.training_pod(), grace=grace)

    @precondition(lambda self: self.world.pods)
    @rule()
    def a_pod_vanishes(self) -> None:
        self.world.vanish(list(self.world.pods.values())[-1])

    @precondition(lambda self: self.world.children)
    @rule()
    def a_child_is_deleted(self) -> None:
        name = list(self.world.children)[-1]
        self.deleted.add(name)
        self.world.delete(name)

    @precondition(lambda self: any("-a" in name for name in self.world.children))
    @rule(held=st.booleans())
    def somebody_holds_it_back_or_lets_it_go(self, held: bool) -> None:
        child = self.world.child()
        if not child.ended:
            state = "Suspended" if held else "Created"
            self.world.change_child(child, suspended_by_others=held, state=state)

    @rule(deaf=st.booleans())
    def the_network_comes_and_goes(self, deaf: bool) -> None:
        self.world.deaf = deaf

    @rule(ready=st.booleans())
    def the_node_is_lost_or_comes_back(self, ready: bool) -> None:
        self.world.nodes_ready = ready

    @rule(refused=st.booleans())
    def writes_are_refused_or_not(self, refused: bool) -> None:
        why = Refusal(action="Create Job/x", code=403, reason="Forbidden", message="exceeded quota: gpus")
        self.world.refuse = {"Create": why} if refused else {}

    @invariant()
    def never_two_attempts_are_alive(self) -> None:
        assert len(self.world.live_attempts) <= 1

    @invariant()
    def no_attempt_has_two_children(self) -> None:
        # one that is deleted before anybody has seen it was never there
        made = [name for name in self.world.made if "-a" in name and name not in self.deleted]
        assert len(made) == len(set(made))

    @invariant()
    def never_two_children_may_start_pods(self) -> None:
        assert sum("-a" in child.name and not child.ended for child in self.world.children.values()) <= 1

    @invariant()
    def attempts_are_counted_right(self) -> None:
        status = self.world.job.status
        counted = sum(attempt.counted for attempt in status.attempts)
        if status.attempt <= 10:
            assert status.failures == counted

    @invariant()
    def deciding_twice_is_deciding_once(self) -> None:
        job, seen, now = self.world.job, self.world.seen, self.world.now
        first = decide(job, seen, self.world.settings, now, self.world.builder)
        stored = replace(job, status=status_of(first.status))
        second = decide(stored, seen, self.world.settings, now, self.world.builder)
        assert second.status == first.status
        assert second.actions == first.actions
        assert second.notes == ()

    @invariant()
    def something_watches(self) -> None:
        status = self.world.job.status
        at_rest = status.phase in {"Suspended", "Succeeded", "Failed"}
        assert self.world.requeue is None or self.world.requeue >= 1
        assert at_rest or self.world.requeue is not None or not self.world.writes

    def teardown(self) -> None:
        """It comes to rest as the model says."""
        world = self.world
        if world.writes == 0:
            world.look()
        world.nodes_ready, world.refuse = True, {}
        for child in world.children.values():
            if child.suspended_by_others:
                world.change_child(child, suspended_by_others=False, state="Created")
        ends = {"Suspended", "Failed", "Succeeded"}
        for _ in range(PATIENCE):
            world.go()
            if world.status["phase"] in ends and not world.live_attempts:
                break
        status = world.job.status
        suspended = world.job.spec.suspend
        failed = status.failures > 2
        expected = "Failed" if failed else "Suspended" if suspended else "Succeeded"
        # a job that had ended before it was suspended stays ended
        assert status.phase == expected or (suspended and status.phase in ends), status
        assert not world.live_attempts
        assert all(child.ended for child in world.children.values())
        world.go(3)
        before = world.writes
        world.go(30)
        assert world.writes == before, "something is written at rest"


@pytest.mark.parametrize(
    "examples",
    [pytest.param(30, id="some"), pytest.param(1000, id="many", marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
)
def test_every_life_converges(worlds: ModuleType, examples: int) -> None:
    run_state_machine_as_test(type("Machine", (Life,), {"worlds": worlds}), settings=limits(examples))
