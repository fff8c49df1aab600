"""One look at a job: everything that is known, and the questions that the table asks about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from semires_operator import names
from semires_operator.actions import Action
from semires_operator.observed import Answer, Child, Observed, Pod
from semires_operator.outcome import Outcome, read_outcome
from semires_operator.progress import told_progress
from semires_operator.reasons import Reason
from semires_operator.seen import Job
from semires_operator.settings import Settings
from semires_operator.status import MAX_MESSAGE, Phase, Preflight, Status
from semires_trainer.config import Spec

LAST_WORD_SECONDS = 30.0
"""How long the end of a pod is waited for after its controller has told it: two watch streams are never in step."""
STALE_SECONDS = 60.0
"""An answer older than this says nothing of now."""
HEALTH_MARGIN_SECONDS = 60.0
"""The trainer's own watchdog ends a hung attempt first, with the stacks of its ranks in the log."""
BEFORE_TRAINING = ("", "fetch", "proposals")
"""Stages (their first words) without a state that a checkpoint could hold."""


class Builder(Protocol):
    """Makes the bodies of children. Raises Unbuildable for a spec of which none can be made."""

    def build_preflight(self, job: Job, attempt: int, settings: Settings) -> dict[str, Any]:
        """The preflight Job of an attempt."""

    def build_child(self, job: Job, attempt: int, settings: Settings, preflight: Preflight | None) -> dict[str, Any]:
        """The PyTorchJob of an attempt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a rule leads to."""

    status: Status
    actions: tuple[Action, ...] = ()
    requeue_after: float | None = None
    """Seconds; None if only an event can change anything."""
    again: bool = False
    """Something was written down that may change what is to be done: ask the table once more."""
    degraded: tuple[Reason, str] | None = None
    """What a person should look at although the job goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A job, what the cluster shows of it, and the status as it is becoming."""

    job: Job
    seen: Observed
    settings: Settings
    builder: Builder
    now: datetime
    """In whole seconds: what is written down can be compared with it."""
    status: Status

    # -- what was asked for

    @property
    def spec(self) -> Spec:
        """The spec; the table asks nothing more if it can't be read."""
        assert self.job.spec is not None
        return self.job.spec

    @property
    def nodes(self) -> int:
        """Training pods of an attempt; of one whose spec can't be read any more, one is enough to say that it runs."""
        return self.job.spec.resources.nodes if self.job.spec else 1

    @property
    def is_finished(self) -> bool:
        """Whether the job has ended for good."""
        return self.status.completion_time is not None

    @property
    def attempt_is_open(self) -> bool:
        """Whether the current attempt has begun and its end is not written down."""
        ended = self.status.attempts[-1].number if self.status.attempts else 0
        return self.status.attempt > ended

    # -- children

    @property
    def children(self) -> tuple[Child, ...]:
        """PyTorchJobs of all attempts."""
        return (*((self.seen.child,) if self.seen.child else ()), *self.seen.old_children)

    @property
    def child(self) -> Child | None:
        """The PyTorchJob of the current attempt."""
        return next((child for child in self.children if child.attempt == self.status.attempt), None)

    @property
    def old_children(self) -> tuple[Child, ...]:
        """Those of earlier attempts."""
        return tuple(child for child in self.children if child.attempt != self.status.attempt)

    @property
    def preflight(self) -> Child | None:
        """The preflight Job of the current attempt."""
        preflight = self.seen.preflight
        return preflight if preflight and preflight.attempt == self.status.attempt else None

    @property
    def preflight_is_done(self) -> bool:
        """Whether the current attempt's check has passed, or is left out."""
        return self.status.preflight is not None and self.status.preflight.attempt == self.status.attempt

    # -- pods

    def pods(self, role: str) -> tuple[Pod, ...]:
        """Pods of the current attempt, the one that has the last word first: rank 0's."""
        found = (pod for pod in self.seen.pods if pod.role == role and pod.attempt == self.status.attempt)
        return tuple(sorted(found, key=lambda pod: (pod.name, pod.created)))

    @property
    def training_pods(self) -> tuple[Pod, ...]:
        """Training pods of the current attempt."""
        return self.pods(names.TRAINING)

    @property
    def running_pods(self) -> tuple[Pod, ...]:
        """Those whose trainer runs."""
        return tuple(pod for pod in self.training_pods if pod.phase == "Running" and not self.is_stuck(pod))

    def is_stuck(self, pod: Pod) -> bool:
        """Whether a pod is told to end for far longer than it may take."""
        if not pod.alive or pod.deleting_since is None:
            return False
        return self.now > pod.deleting_since + timedelta(seconds=pod.grace_seconds + self.settings.stuck_seconds)

    @property
    def stuck_pods(self) -> tuple[Pod, ...]:
        """Pods of all attempts that are stuck."""
        return tuple(filter(self.is_stuck, self.seen.pods))

    @property
    def blocking_pods(self) -> tuple[Pod, ...]:
        """Pods of all attempts that may still write: none may be there when another begins.

        One that is stuck on a node that is not ready is fenced off by owner.json and blocks nothing.
        """
        return tuple(
            pod for pod in self.seen.pods if pod.alive and not (self.is_stuck(pod) and pod.node_ready is False)
        )

    # -- last words

    def outcome_of(self, pod: Pod) -> Outcome | None:
        """What a pod of ours left as its last word."""
        return read_outcome(pod.termination_message, job_uid=self.job.uid, attempt=pod.attempt)

    def end_is_known(self, child: Child, pods: Iterable[Pod]) -> bool:
        """Whether no more can be learned of how a child ended."""
        pods = tuple(pods)
        if any(pod.alive and pod.deleting_since and not self.is_stuck(pod) for pod in pods):
            return False
        if any(pod.exit_code is not None for pod in pods) or (not pods and self.status.reason == Reason.DISRUPTED):
            return True
        return self.now >= (child.finished or child.created) + timedelta(seconds=LAST_WORD_SECONDS)

    # -- time

    def seconds_since(self, time: datetime | None) -> float:
        """0 without a time, or if it is to come."""
        return max(0.0, (self.now - time).total_seconds()) if time else 0.0

    @property
    def waited_seconds(self) -> float:
        """How long the attempt, or the first one, has been waiting."""
        return self.seconds_since(self.status.attempt_created_at or self.job.created)

    @property
    def active_seconds(self) -> float:
        """Running time of all attempts."""
        return self.status.active_seconds + self.seconds_since(self.status.running_since)

    @property
    def seconds_to_active_deadline(self) -> float | None:
        """None without such a deadline."""
        limit = self.spec.active_deadline_seconds
        return limit - self.active_seconds if limit is not None else None

    @property
    def seconds_to_pending_deadline(self) -> float | None:
        """None without such a deadline, or if the attempt doesn't wait for pods: all run, have run, or some ended."""
        limit = self.spec.pending_deadline_seconds
        if limit is None or not self.attempt_is_open or self.status.running_since is not None:
            return None
        if self.preflight_is_done:
            waits = all(pod.alive for pod in self.training_pods)
        else:
            waits = all(pod.phase == "Pending" for pod in self.pods(names.PREFLIGHT))
        return limit - self.waited_seconds if waits else None

    @property
    def own_pods(self) -> tuple[Pod, ...]:
        """All pods of the current attempt."""
        return self.pods(names.TRAINING) + self.pods(names.PREFLIGHT)

    # -- progress

    @property
    def answer(self) -> Answer | None:
        """What a trainer of the current attempt has answered, if it is new enough to speak of now."""
        answer = self.seen.answer
        if answer is None or answer.attempt != self.status.attempt:
            return None
        return answer if self.seconds_since(answer.time) <= STALE_SECONDS else None

    @property
    def health_limit_seconds(self) -> float:
        """How long nothing may move, at the stage that the trainer is in."""
        policy = self.spec.health_policy
        stage = told_progress(self.answer).stage if self.answer else ""
        is_early = stage.partition(" ")[0] in BEFORE_TRAINING
        return max(policy.stalled_seconds, policy.startup_seconds) if is_early else policy.stalled_seconds

    def is_stalled(self, *, margin_seconds: float = 0) -> bool:
        """Whether the trainer answers but has not got on. One that can't be asked is never stalled."""
        if self.answer is None or not self.running_pods:
            return False
        told_at = told_progress(self.answer).last_updated_time
        silence = min(self.seconds_since(told_at), self.seconds_since(self.status.running_since))
        return silence >= self.health_limit_seconds + margin_seconds

    # -- what follows

    def write(self, **fields: Any) -> Step:
        """Write something down and ask the table again."""
        return Step(status=self.status.model_copy(update=fields), again=True)

    def say(
        self,
        phase: Phase,
        reason: Reason,
        message: str,
        *actions: Action,
        requeue: float | None = None,
        degraded: tuple[Reason, str] | None = None,
    ) -> Step:
        """Say where the job is, and do something about it."""
        words = {"phase": phase, "reason": reason.value, "message": message[:MAX_MESSAGE]}
        status = self.status.model_copy(update=words)
        return Step(status=status, actions=actions, requeue_after=requeue, degraded=degraded)

    def with_status(self, status: Status) -> Look:
        """The same with another status."""
        return replace(self, status=status)
