"""The words of a status: conditions, columns, events; and what became of a write that was refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from semires_operator.actions import Action, AskCheckpoint, Create, Decision, Note
from semires_operator.conditions import Finding, Truth, merged, truth
from semires_operator.decide.look import Look, Step
from semires_operator.display import display_of
from semires_operator.explain import Explanation, explain_refusal, explain_stuck, explain_taken
from semires_operator.reasons import ABOUT, Reason, is_warning
from semires_operator.status import MAX_MESSAGE, Status

SHORTEST_REQUEUE = 1.0
LONGEST_REFUSAL_WAIT, SHORTEST_REFUSAL_WAIT = 60.0, 5.0
FRESH_SECONDS = 7200.0
"""A checkpoint older than this would be a loss."""
VARYING = re.compile(r'"[^"]*"|[^\s,;:()]*\d[^\s,;:()]*')
"""Names in quotes and words with digits: controllers write new ones at each try."""
ONE_CAUSE = {Reason.IMAGE_PULL_BACK_OFF}
"""Reasons for which kubelets write different sentences in turn."""
REFUSED = {
    Reason.QUOTA_EXCEEDED,
    Reason.POD_SECURITY_REFUSED,
    Reason.SECRET_MISSING,
    Reason.CLAIM_MISSING,
    Reason.SERVICE_ACCOUNT_MISSING,
    Reason.WEBHOOK_UNAVAILABLE,
    Reason.BACKEND_MISSING,
    Reason.NAME_CONFLICT,
    Reason.WAITING_FOR_OLD_OBJECT,
    Reason.CREATE_REFUSED,
    Reason.DELETE_REFUSED,
}
"""Reasons that a refused write may have."""


def tell(look: Look, step: Step) -> Decision:
    """The decision of a step: its status in full, its actions, and what is told of the transition."""
    if look.job.deleting:
        return Decision(status=written(look.job.status), now=look.now)
    step = _with_refusal(look, step)
    before = look.job.status
    status = step.status.model_copy(update={"message": _steady(before, step.status)})
    findings = _findings(look, status, step.degraded or _stuck(look))
    status = status.model_copy(
        update={
            "observed_generation": look.job.generation,
            "conditions": merged(status.conditions, findings, now=look.now, generation=look.job.generation),
        }
    )
    status = status.model_copy(update={"display": display_of(status, look.job.spec)})
    return Decision(
        status=written(status),
        actions=step.actions,
        notes=_notes(before, status),
        requeue_after=_requeue(look, step),
        now=look.now,
    )


def written(status: Status) -> dict[str, object]:
    """A status as it is stored."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


# -- refused writes


def _with_refusal(look: Look, step: Step) -> Step:
    """If this very write was refused before: say so, and do nothing until the next look.

    While it is tried again what was said stays, or the status would change twice at each try.
    """
    writes = [action for action in step.actions if not isinstance(action, AskCheckpoint)]
    if not writes or look.is_finished:
        return step
    why = _refused(look, writes)
    wait = min(max(SHORTEST_REFUSAL_WAIT, look.waited_seconds), LONGEST_REFUSAL_WAIT)
    if why:
        phase = "Pending" if any(isinstance(action, Create) for action in writes) else step.status.phase
        words = {"phase": phase, "reason": why.reason.value, "message": why.message[:MAX_MESSAGE]}
        return replace(step, status=step.status.model_copy(update=words), actions=(), requeue_after=wait)
    before = look.job.status
    was_refused = before.reason in REFUSED and before.attempt == step.status.attempt
    if was_refused and any(isinstance(action, Create) for action in writes) == (before.phase == "Pending"):
        words = {"phase": before.phase, "reason": before.reason, "message": before.message}
        return replace(step, status=step.status.model_copy(update=words), requeue_after=wait)
    return step


def _refused(look: Look, writes: Sequence[Action]) -> Explanation | None:
    created = {action.body["metadata"]["name"] for action in writes if isinstance(action, Create)}
    if look.seen.taken and look.seen.taken.name in created:
        return explain_taken(look.seen.taken)
    return explain_refusal(look.seen.refusal) if look.seen.refusal else None


# -- words


def _steady(before: Status, after: Status) -> str:
    """The message; the old one if nothing but names and numbers has changed: a write for each try helps nobody."""
    is_same = (before.phase, before.reason, before.attempt) == (after.phase, after.reason, after.attempt)
    if not is_same or after.reason not in set(Reason) or ABOUT[Reason(after.reason)].section != "waiting":
        return after.message
    if after.reason in ONE_CAUSE or VARYING.sub("", before.message) == VARYING.sub("", after.message):
        return before.message
    return after.message


def _notes(before: Status, after: Status) -> tuple[Note, ...]:
    """An event on each transition."""
    if (before.phase, before.reason) == (after.phase, after.reason) and before.conditions:
        return ()
    reason = Reason(after.reason) if after.reason in set(Reason) else None
    is_bad = after.phase == "Failed" or (reason is not None and is_warning(reason)) or reason is Reason.STALLED
    return (Note(type="Warning" if is_bad else "Normal", reason=after.reason, message=after.message),)


def _findings(look: Look, status: Status, degraded: tuple[Reason, str] | None) -> tuple[Finding, ...]:
    """The conditions, in the order of the documentation."""
    phase, reason, message = status.phase, status.reason, status.message
    ends = {"Complete": phase == "Succeeded", "Failed": phase == "Failed"}
    ends["Finished"] = any(ends.values())
    findings = [
        Finding(type=name, status=truth(holds), reason=reason, message=message if holds else "")
        for name, holds in ends.items()
    ]
    findings += [Finding(type=name, status=truth(phase == name), reason=reason) for name in ("Suspended", "Running")]
    stands = degraded or (Reason.AS_EXPECTED, "")
    return (
        *findings,
        _progressing(status),
        _checkpoint_fresh(look, status),
        Finding(type="Degraded", status=truth(degraded is not None), reason=stands[0].value, message=stands[1]),
    )


def _stuck(look: Look) -> tuple[Reason, str] | None:
    """A pod that should have ended, whatever else the job does meanwhile."""
    for pod in look.stuck_pods:
        why = explain_stuck(pod)
        return why.reason, why.message
    return None


def _progressing(status: Status) -> Finding:
    progress = status.progress
    if status.phase == "Running" and progress and progress.stale:
        message = "The trainer can't be asked; the figures are the last known."
        return Finding(type="Progressing", status="Unknown", reason=Reason.PROGRESS_STALE.value, message=message)
    on_its_way = {Reason.TRAINING, Reason.CHECKING_INPUTS, Reason.WAITING_FOR_PODS, Reason.PODS_ENDING}
    moves = status.reason in on_its_way
    return Finding(
        type="Progressing", status=truth(moves), reason=status.reason, message="" if moves else status.message
    )


def _checkpoint_fresh(look: Look, status: Status) -> Finding:
    last = status.last_checkpoint
    if last is None:
        return Finding(type="CheckpointFresh", status="Unknown", reason=Reason.NO_CHECKPOINT_YET.value)
    since = max(filter(None, (last.time, status.running_since)), default=None)
    is_old = status.phase == "Running" and look.seconds_since(since) > FRESH_SECONDS
    reason = Reason.CHECKPOINT_OLD if is_old else Reason.CHECKPOINT_PUBLISHED
    verdict: Truth = truth(not is_old)
    return Finding(type="CheckpointFresh", status=verdict, reason=reason.value)


# -- when to look again


def _requeue(look: Look, step: Step) -> float | None:
    """The next look: when the step wants it, or a deadline comes."""
    wishes = [step.requeue_after]
    # Deadlines that are over have begun a stop, which has its own pace.
    is_stopping = step.status.stopping is not None
    if look.job.spec and not look.is_finished and not is_stopping and step.requeue_after is not None:
        wishes += [look.seconds_to_active_deadline if look.running_pods else None, look.seconds_to_pending_deadline]
    times = [seconds for seconds in wishes if seconds is not None]
    return max(SHORTEST_REQUEUE, min(times)) if times else None
