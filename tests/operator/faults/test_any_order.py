"""People and accidents in any order, on a real API server: the job always comes to where a simple model says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from testbed.api_client import Refused
from testbed.api_cluster import ApiCluster
from testbed.bench import Bench, bench
from testbed.cluster import Object
from testbed.player import End, Player, Script, end_pod

NUMBERS = itertools.count()


class Life(RuleBasedStateMachine):
    """One job after the other. The model: what the user wants, and how often an attempt has failed by itself."""

    place: Bench
    player: Player

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self.suspended = False
        self.most_failures = 0

    @property
    def exists(self) -> bool:
        return self.name != ""

    @initialize(suspended=st.booleans())
    def begin(self, suspended: bool) -> None:
        self.create(suspended)

    @precondition(lambda self: not self.exists)
    @rule(suspended=st.booleans())
    def create(self, suspended: bool) -> None:
        self.player.script.training = lambda attempt: None
        self.name, self.suspended, self.most_failures = f"j{next(NUMBERS)}", suspended, 0
        self.place.submit(self.name, suspend=suspended, failurePolicy={"backoffLimit": 100})

    @precondition(lambda self: self.exists)
    @rule(seconds=st.integers(3600, 7200))
    def edit(self, seconds: int) -> None:
        patch = {"spec": {"activeDeadlineSeconds": seconds, "ttlSecondsAfterFinished": seconds}}
        self.place.api.patch("semiresjobs", self.name, patch)

    @precondition(lambda self: self.exists)
    @rule(suspended=st.booleans())
    def suspend_or_resume(self, suspended: bool) -> None:
        self.suspended = suspended
        self.place.suspend(self.name, suspend=suspended)

    @precondition(lambda self: self.exists)
    @rule(kind=st.sampled_from(["pytorchjobs", "jobs"]))
    def delete_a_child(self, kind: str) -> None:
        for child in self.of_job(self.place.api.list(kind)):
            self.place.api.delete(kind, child["metadata"]["name"])

    @precondition(lambda self: self.exists)
    @rule(code=st.sampled_from([1, 137, 143, 150]))
    def end_a_pod(self, code: int) -> None:
        self.most_failures += code in (1, 137)
        for pod in self.running_pods():
            reason = "OOMKilled" if code == 137 else ""
            with unless_somebody_was_quicker():
                end_pod(self.place.api, pod, End(exit_code=code, reason=reason))

    @precondition(lambda self: self.exists)
    @rule()
    def delete_a_pod(self) -> None:
        for pod in self.running_pods():
            self.place.api.delete("pods", pod["metadata"]["name"], gracePeriodSeconds=0)

    @rule()
    def kill_the_operator(self) -> None:
        self.place.operators[0].kill()
        self.place.operators[0].start()

    @precondition(lambda self: self.exists)
    @rule()
    def settle(self) -> None:
        """Nothing happens for a while."""
        if self.suspended:
            self.place.wait("nothing runs", self.rests, name=self.name)
        else:
            self.place.wait("one pod trains", self.trains, name=self.name)

    @precondition(lambda self: self.exists)
    @rule()
    def finish(self) -> None:
        """The pods end well from now on: so does the job, once it may run."""
        self.suspend_or_resume(False)
        self.player.script.training = lambda attempt: End()
        status = self.place.wait_for_phase("Succeeded", name=self.name, seconds=90)

        assert status.get("failures", 0) <= self.most_failures
        assert [one["ended"] for one in status["attempts"]][-1] == "Succeeded"
        assert status["attempts"][-1]["number"] == status["attempt"]
        self.delete_the_job()

    @precondition(lambda self: self.exists)
    @rule()
    def delete_the_job(self) -> None:
        self.place.api.delete("semiresjobs", self.name)
        self.name = ""

    def teardown(self) -> None:
        """Whatever has happened: the job gets to its end, and no attempt has had two PyTorchJobs."""
        if self.exists:
            self.finish()
        made = self.place.made("pytorchjobs")
        assert len(made) == len(set(made)), made
        self.place.keep_alive()
        (operator,) = self.place.operators
        assert operator.tracebacks() == 0, operator.tail()

    # -- what there is

    def of_job(self, objects: list[Object]) -> list[Object]:
        return [one for one in objects if one["metadata"].get("labels", {}).get("semires.dev/job") == self.name]

    def running_pods(self) -> list[Object]:
        return [pod for pod in self.of_job(self.place.api.list("pods")) if pod["status"].get("phase") == "Running"]

    def rests(self, status: Object) -> bool:
        alive = [pod for pod in self.of_job(self.place.api.list("pods")) if pod["status"].get("phase") != "Failed"]
        training = [pod for pod in alive if pod["metadata"]["labels"]["semires.dev/role"] == "training"]
        return status.get("phase") == "Suspended" and not training

    def trains(self, status: Object) -> bool:
        pods = [pod for pod in self.running_pods() if pod["metadata"]["labels"]["semires.dev/role"] == "training"]
        attempts = [int(pod["metadata"]["labels"]["semires.dev/attempt"]) for pod in pods]
        return status.get("phase") == "Running" and attempts == [status["attempt"]]


@contextmanager
def unless_somebody_was_quicker() -> Iterator[None]:
    """What is to be changed may be gone."""
    try:
        yield
    except Refused as refused:
        if refused.code not in (404, 409):
            raise


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("examples", "steps", "fixed"),
    [
        pytest.param(3, 8, True, id="a few"),
        pytest.param(50, 15, False, id="fifty", marks=pytest.mark.long),
    ],
)
def test_a_job_converges(own_api_cluster: ApiCluster, tmp_path: Path, examples: int, steps: int, fixed: bool) -> None:
    with bench(own_api_cluster, tmp_path) as place:
        player = place.play(Script())
        place.operator(LEASE_SECONDS=1, LEASE_RENEW_SECONDS=0.9, LEASE_RETRY_SECONDS=0.2).start()

        class Machine(Life):
            pass

        Machine.place, Machine.player = place, player
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                derandomize=fixed,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
                phases=[Phase.generate],
            ),
        )
