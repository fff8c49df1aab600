"""The one form of stop: ask for a checkpoint, wait for it for a bounded time, delete the child, wait for its pods.

status.stopping says who wants it and until when is waited. Once its deadline is not later than now, deletion has been
decided, and there is no way back; until then a stop that is not wanted any more is withdrawn.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from semires_operator.actions import AskCheckpoint, Delete
from semires_operator.changes import run_by
from semires_operator.decide.look import BEFORE_TRAINING, HEALTH_MARGIN_SECONDS, Look, Step
from semires_operator.decide.record import finished, stopped
from semires_operator.display import duration
from semires_operator.explain import explain_stuck
from semires_operator.progress import told_progress
from semires_operator.reasons import Reason
from semires_operator.status import Failure, Stopping

POLL_SECONDS = 5.0
"""Between two looks at a stop."""
StopReason = Literal["Suspend", "Edit", "ActiveDeadline", "PendingDeadline", "Health"]


def _edit(look: Look) -> bool:
    """Edited while `suspend` was true for a moment: what runs is not what the spec says."""
    return look.status.run_by_sha256 not in (None, run_by(look.spec))


def _active_deadline(look: Look) -> bool:
    left = look.seconds_to_active_deadline
    return left is not None and left <= 0


def _pending_deadline(look: Look) -> bool:
    left = look.seconds_to_pending_deadline
    return left is not None and left <= 0


def _health(look: Look) -> bool:
    is_restarted = look.spec.health_policy.action == "Restart"
    return is_restarted and look.is_stalled(margin_seconds=HEALTH_MARGIN_SECONDS)


WANTED: dict[StopReason, Callable[[Look], bool]] = {
    "Suspend": lambda look: look.spec.suspend,
    "Edit": _edit,
    "ActiveDeadline": _active_deadline,
    "PendingDeadline": _pending_deadline,
    "Health": _health,
}
"""Who may want a stop; the first that does is written down."""


def _wanted(look: Look) -> StopReason | None:
    return next((reason for reason, wants in WANTED.items() if wants(look)), None)


def is_wanted(look: Look) -> bool:
    """Whether somebody wants the attempt to stop."""
    return _wanted(look) is not None


def begin(look: Look) -> Step:
    """Write down who wants it, and until when a checkpoint is waited for."""
    reason = _wanted(look)
    assert reason is not None
    deadline = look.now + timedelta(seconds=look.settings.checkpoint_wait_seconds)
    waited_for = look.job.status.message if reason == "PendingDeadline" else ""
    stopping = Stopping(reason=reason, requested_at=look.now, deadline=deadline, waited_for=waited_for)
    return look.write(stopping=stopping)


def is_under_way(look: Look) -> bool:
    """Whether a stop was begun."""
    return look.status.stopping is not None


def go_on(look: Look) -> Step:
    """The next part of the stop."""
    if _is_decided(look):
        return _remove(look)
    if _is_withdrawn(look):
        return look.write(stopping=None)
    if _can_save(look):
        return _ask(look)
    return look.write(stopping=_stopping(look).model_copy(update={"deadline": look.now}))


def _stopping(look: Look) -> Stopping:
    assert look.status.stopping is not None
    return look.status.stopping


def _is_decided(look: Look) -> bool:
    return look.now >= _stopping(look).deadline


def _is_withdrawn(look: Look) -> bool:
    """Whether the user has changed the spec, or the pods have come after all."""
    reason = _stopping(look).reason
    if reason == "Health":
        # silence proves nothing: only an answer that shows progress does
        return look.answer is not None and not look.is_stalled()
    return not WANTED[reason](look)


def _can_save(look: Look) -> bool:
    """Whether a newer checkpoint can still come."""
    last, since = look.status.last_checkpoint, _stopping(look).requested_at
    if not look.running_pods or (last and last.time and last.time >= since):
        return False
    stage = told_progress(look.answer).stage.partition(" ")[0] if look.answer else None
    return stage not in BEFORE_TRAINING


def _ask(look: Look) -> Step:
    asked = [AskCheckpoint(pod=pod.name, ip=pod.ip) for pod in look.running_pods if pod.ip]
    deadline = _stopping(look).deadline
    message = f"{_why(look)} A checkpoint is waited for, until {deadline:%H:%M:%S} UTC at most."
    requeue = min(POLL_SECONDS, (deadline - look.now).total_seconds())
    return look.say("Stopping", Reason.SAVING_CHECKPOINT, message, *asked, requeue=requeue)


def _remove(look: Look) -> Step:
    """Delete what is there, wait until it is gone, write down the end."""
    check = look.preflight if look.preflight and not look.preflight.ended else None
    if not (look.children or check or look.blocking_pods):
        return _end(look)
    deletions = [
        Delete(kind="PyTorchJob", name=child.name, uid=child.uid) for child in look.children if not child.deleting
    ]
    if check and not check.deleting:
        deletions.append(Delete(kind="Job", name=check.name, uid=check.uid))
    message = f"{_why(look)} The pods are being removed."
    for pod in look.stuck_pods:
        stuck = explain_stuck(pod)
        return look.say("Stopping", stuck.reason, stuck.message, *deletions, requeue=30)
    return look.say("Stopping", Reason.REMOVING_PODS, message, *deletions, requeue=POLL_SECONDS)


def _end(look: Look) -> Step:
    """The attempt is over; a deadline ends the job too."""
    reason, why = _stopping(look).reason, _why(look)
    failure = Failure(reason=Reason.STALLED.value, message=why) if reason == "Health" else None
    known = look.with_status(look.status.model_copy(update=stopped(look, failure)))
    if reason == "ActiveDeadline":
        return finished(look, known.say("Failed", Reason.ACTIVE_DEADLINE_EXCEEDED, why))
    if reason == "PendingDeadline":
        message = f"{why} {_stopping(look).waited_for}".strip()
        return finished(look, known.say("Failed", Reason.PENDING_DEADLINE_EXCEEDED, message))
    return known.write()


def _why(look: Look) -> str:
    """Who wants it, in words."""
    spec, reason = look.spec, _stopping(look).reason
    if reason == "Suspend":
        return "spec.suspend is true."
    if reason == "Edit":
        return "The spec was edited; the next attempt runs as it says."
    if reason == "ActiveDeadline":
        return f"The running time reached spec.activeDeadlineSeconds ({duration(spec.active_deadline_seconds or 0)})."
    if reason == "PendingDeadline":
        limit = duration(spec.pending_deadline_seconds or 0)
        return f"The pods did not run within spec.pendingDeadlineSeconds ({limit})."
    return f"There was no progress for {duration(spec.health_policy.stalled_seconds)} or longer."
