"""What follows from the end of an attempt: is it repeated, does it count, what is told. Pure.

The user's rules come first, then what the trainer says itself, then what became of its pod.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from semires_operator.observed import Child, Pod
from semires_operator.outcome import Outcome
from semires_operator.reasons import Reason
from semires_operator.status import MAX_LOG_TAIL, MAX_MESSAGE, Failure
from semires_trainer.config import FailureRule

ActionName = Literal["Retry", "RetryFree", "Fail"]
"""Retry counts towards backoffLimit, RetryFree does not, Fail ends the job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """All that is known of how an attempt ended."""

    child: Child | None
    """The PyTorchJob or preflight Job; None if it was deleted."""
    pod: Pod | None
    """The pod that tells most; None if all have vanished."""
    outcome: Outcome | None
    """What it left as its last word."""
    log_tail: str = ""
    removal: str = ""
    """What was told while a pod that has vanished since was being removed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What follows from it."""

    action: ActionName
    reason: Reason
    failure: Failure
    micro_batch: int | None = None
    """training.microBatch of the next attempt."""

    @property
    def was_lost(self) -> bool:
        """Whether the attempt was lost to the cluster and did not fail by itself."""
        return self.reason in {Reason.DISRUPTED, Reason.POD_VANISHED, Reason.CHILD_DELETED, Reason.TERMINATED}


SAID_BY_TRAINER: dict[int, tuple[ActionName, Reason]] = {
    2: ("Fail", Reason.CONFIG_INVALID),
    3: ("Fail", Reason.DATA_INVALID),
    4: ("Fail", Reason.DIVERGED),
    5: ("Fail", Reason.STORAGE_DENIED),
    6: ("RetryFree", Reason.GPU_MEMORY),  # Fail, if no smaller micro-batch is named
    126: ("Fail", Reason.IMAGE_BROKEN),
    127: ("Fail", Reason.IMAGE_BROKEN),
}
"""Exit codes that mean the same whatever else happened to the pod."""
DEPENDS_ON_POD: dict[int, tuple[ActionName, Reason]] = {
    130: ("RetryFree", Reason.TERMINATED),
    143: ("RetryFree", Reason.TERMINATED),
    150: ("RetryFree", Reason.INFRASTRUCTURE),
}
"""Exit codes that are looked at if the pod was not removed; all others are Retry, Unexpected."""
CANNOT_START = {"StartError", "ContainerCannotRun"}
NO_COMMAND = re.compile(r"executable file not found|exec format error|exec: .*(no such file|permission denied)")


def classify(end: End, rules: Sequence[FailureRule]) -> Verdict:
    """What follows from the end of an attempt that did not succeed and that we did not stop."""
    action, reason = _default(end)
    ruled = next((rule.action for rule in rules if _matches(rule, end)), None)
    if ruled == "Fail" and action != "Fail":
        reason = Reason.FAILED_BY_RULE
    return Verdict(
        action=ruled or action,
        reason=reason,
        failure=_failure(end, reason),
        micro_batch=end.outcome.micro_batch if end.outcome else None,
    )


def _default(end: End) -> tuple[ActionName, Reason]:
    """First match wins."""
    pod, code = end.pod, end.pod.exit_code if end.pod else None
    if code == 6 and not (end.outcome and end.outcome.micro_batch):
        return "Fail", Reason.GPU_MEMORY
    if code in SAID_BY_TRAINER:
        return SAID_BY_TRAINER[code]
    if "DeadlineExceeded" in {pod.reason if pod else "", end.child.reason if end.child else ""}:
        return "Retry", Reason.PREFLIGHT_DEADLINE_EXCEEDED
    if end.child is None or end.child.deleting:
        return "RetryFree", Reason.CHILD_DELETED
    if pod is None:
        return "RetryFree", Reason.DISRUPTED if end.removal else Reason.POD_VANISHED
    if pod.disrupted or pod.deleting_since or pod.reason == "NodeLost":
        return "RetryFree", Reason.DISRUPTED
    return _of_pod(pod, end.outcome)


def _of_pod(pod: Pod, outcome: Outcome | None) -> tuple[ActionName, Reason]:
    """Of a pod that nobody removed."""
    if pod.reason == "OOMKilled":
        return "Retry", Reason.OUT_OF_MEMORY
    if pod.reason in CANNOT_START:
        is_image = NO_COMMAND.search(pod.termination_message)
        return ("Fail", Reason.IMAGE_BROKEN) if is_image else ("RetryFree", Reason.INFRASTRUCTURE)
    if outcome and outcome.reason == "Superseded":
        # no later attempt of ours: one is begun when nothing of the last one lives
        return "Fail", Reason.SUPERSEDED
    if outcome and outcome.reason == "RanksHung":
        # healthPolicy counts it; each such attempt has cost stalledSeconds of GPU time
        return "Retry", Reason.RANKS_HUNG
    if _was_refused(pod):
        return "RetryFree", Reason.INFRASTRUCTURE
    if pod.exit_code is None and not pod.reason:
        return "RetryFree", Reason.POD_VANISHED
    return DEPENDS_ON_POD.get(pod.exit_code or 0, ("Retry", Reason.UNEXPECTED))


def _was_refused(pod: Pod) -> bool:
    """Whether the kubelet would not have it: a device has gone bad, others were faster, labels have changed.

    A pod that is evicted for its own limits before it has begun counts: it would be evicted again.
    """
    return pod.exit_code is None and pod.started is None and pod.reason not in {"", "Evicted"}


def _matches(rule: FailureRule, end: End) -> bool:
    if end.pod is None:
        return False
    reasons = {end.pod.reason, end.pod.disrupted, "DisruptionTarget" if end.pod.disrupted else ""}
    return end.pod.exit_code in (rule.exit_codes or ()) or bool(reasons & set(rule.pod_reasons or ()))


def _failure(end: End, reason: Reason) -> Failure:
    pod, outcome = end.pod, end.outcome
    own_word = pod.reason if pod and pod.reason not in {"", "Completed", "Error"} else ""
    return Failure(
        reason=(outcome.reason if outcome and outcome.reason else own_word or reason.value)[:64],
        message=_message(end, reason)[:MAX_MESSAGE],
        field=outcome.field if outcome else "",
        exit_code=pod.exit_code if pod and pod.exit_code is not None and 0 <= pod.exit_code <= 255 else None,
        node=pod.node if pod else "",
        log_tail=end.log_tail[-MAX_LOG_TAIL:],
    )


def _message(end: End, reason: Reason) -> str:
    """The trainer's own sentence, or one about its pod."""
    pod, child = end.pod, end.child
    if end.outcome and end.outcome.message:
        return end.outcome.message
    if reason is Reason.PREFLIGHT_DEADLINE_EXCEEDED:
        return "The preflight took longer than spec.preflight.deadlineSeconds."
    if reason is Reason.CHILD_DELETED:
        return "Somebody deleted the child of this attempt."
    if pod is None and end.removal:
        return end.removal
    if pod is None:
        return f"The pods were gone before their end could be read. {child.message if child else ''}".strip()
    if reason is Reason.DISRUPTED:
        return removal_of(pod)
    if reason is Reason.INFRASTRUCTURE and _was_refused(pod):
        words = f"{pod.reason}: {pod.message}" if pod.message else pod.reason
        return f"Node {pod.node} refused pod {pod.name} ({words.rstrip('. ')})."
    where = f"Pod {pod.name} on node {pod.node}" if pod.node else f"Pod {pod.name}"
    how = f"exit code {pod.exit_code}" if pod.exit_code is not None else "no exit code"
    word = f" ({pod.reason})" if pod.reason and pod.reason != "Error" else ""
    return f"{where} ended with {how}{word}."


def removal_of(pod: Pod) -> str:
    """What happens to a pod that others remove."""
    where = f"Pod {pod.name} on node {pod.node}" if pod.node else f"Pod {pod.name}"
    return f"{where} is removed by others ({pod.disrupted or pod.reason or 'deleted'})."
