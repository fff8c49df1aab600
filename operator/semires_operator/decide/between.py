"""What follows while no attempt is under way: before the first, between two, and after the last."""

from __future__ import annotations

from datetime import timedelta

from semires_operator.actions import Delete
from semires_operator.decide.attempt import SHORTEST_WAIT, waiting_seconds
from semires_operator.decide.look import Look, Step
from semires_operator.decide.record import begun, finished
from semires_operator.display import duration
from semires_operator.explain import explain_stuck
from semires_operator.reasons import Reason
from semires_operator.status import Phase

# -- the job as a whole


def leave(look: Look) -> Step:
    """Owner references do the rest."""
    return Step(status=look.job.status)


def finished_but_alive(look: Look) -> bool:
    """Whether something of a job that has ended may still run, and nobody has deleted it yet."""
    return look.is_finished and bool(_live_deletions(look))


def wait_for_ttl(look: Look) -> Step:
    """Keep it, or delete it when its time has come."""
    status = look.status
    ttl = look.spec.ttl_seconds_after_finished if look.job.spec else None
    if ttl is None:
        return Step(status=status)
    left = ttl - look.seconds_since(status.completion_time)
    if left > 0:
        return Step(status=status, requeue_after=left)
    gone = Delete(kind="SemiRESJob", name=look.job.name, uid=look.job.uid)
    return Step(status=status, actions=(gone,), requeue_after=60)


def tell_invalid_spec(look: Look) -> Step:
    """Nothing can be decided. What runs is left alone; an edit brings the next look."""
    message = f"{look.job.problem} (this operator can't read the stored spec)"
    if look.attempt_is_open and (look.blocking_pods or any(not child.ended for child in look.children)):
        return Step(status=look.status, degraded=(Reason.SPEC_INVALID, message), requeue_after=60)
    return look.say("Failed", Reason.SPEC_INVALID, message)


# -- between two attempts


def child_lives(look: Look) -> bool:
    """Whether anything of the attempts so far may still do something."""
    unfinished = [*look.children, *((look.preflight,) if look.preflight else ())]
    return any(not child.ended for child in unfinished) or bool(look.blocking_pods)


def remove_live_children(look: Look) -> Step:
    """Delete what may still start pods, and what has pods that nobody ends; wait for the rest."""
    deletions = _live_deletions(look)
    if look.is_finished:
        return Step(status=look.status, actions=deletions, requeue_after=30)
    phase: Phase = "Stopping" if look.spec.suspend else "Retrying"
    for pod in look.stuck_pods:
        why = explain_stuck(pod)
        return look.say(phase, why.reason, why.message, *deletions, requeue=30)
    names = ", ".join(sorted(pod.name for pod in look.blocking_pods)) or "its PyTorchJob"
    message = f"Attempt {look.status.attempt} has ended; {names} must be gone before anything else begins."
    return look.say(phase, Reason.WAITING_FOR_PREVIOUS_PODS, message, *deletions, requeue=SHORTEST_WAIT)


def wait_for_previous(look: Look) -> Step:
    """Something of an earlier attempt has come to light although this one has begun."""
    deletions = _live_deletions(look)
    names = ", ".join(sorted(pod.name for pod in look.blocking_pods)) or "an earlier PyTorchJob"
    message = f"Attempt {look.status.attempt} waits until {names} is gone."
    return look.say("Pending", Reason.WAITING_FOR_PREVIOUS_PODS, message, *deletions, requeue=waiting_seconds(look))


def _live_deletions(look: Look) -> tuple[Delete, ...]:
    left_alone = {pod.attempt for pod in look.blocking_pods if pod.deleting_since is None}
    children = [child for child in look.children if not child.ended or child.attempt in left_alone]
    deletions = [Delete(kind="PyTorchJob", name=child.name, uid=child.uid) for child in children if not child.deleting]
    check = look.preflight
    if check and not check.ended and not check.deleting:
        deletions.append(Delete(kind="Job", name=check.name, uid=check.uid))
    return tuple(deletions)


def suspend(look: Look) -> Step:
    """Nothing runs. An edit brings the next look."""
    return look.say("Suspended", Reason.SUSPENDED, "spec.suspend is true; set it to false to go on.")


def is_out_of_time(look: Look) -> bool:
    """Whether the attempts so far have used up the running time."""
    left = look.seconds_to_active_deadline
    return left is not None and left <= 0


def fail_out_of_time(look: Look) -> Step:
    """The end."""
    limit = duration(look.spec.active_deadline_seconds or 0)
    message = f"The running time reached spec.activeDeadlineSeconds ({limit})."
    return finished(look, look.say("Failed", Reason.ACTIVE_DEADLINE_EXCEEDED, message))


def has_failed_too_often(look: Look) -> bool:
    """Whether more attempts have failed than may be repeated."""
    return look.status.failures > look.spec.failure_policy.backoff_limit


def fail_too_often(look: Look) -> Step:
    """The end."""
    limit = look.spec.failure_policy.backoff_limit
    message = f"{look.status.failures} attempts failed, spec.failurePolicy.backoffLimit is {limit}. {_last(look)}"
    return finished(look, look.say("Failed", Reason.BACKOFF_LIMIT_EXCEEDED, message))


def was_lost_too_often(look: Look) -> bool:
    """Whether more attempts were lost than are repeated free of charge."""
    return look.status.free_retries > look.settings.max_free_retries


def fail_lost(look: Look) -> Step:
    """The end."""
    message = f"{look.status.free_retries} attempts were lost, more than are repeated free of charge. {_last(look)}"
    return finished(look, look.say("Failed", Reason.FREE_RETRIES_EXHAUSTED, message))


def backs_off(look: Look) -> bool:
    """Whether the next attempt has to wait."""
    return look.status.retry_at is not None and look.now < look.status.retry_at


def wait_for_retry(look: Look) -> Step:
    """Tell when it begins, and why the last one failed."""
    at = look.status.retry_at
    assert at is not None
    message = f"Attempt {look.status.attempt + 1} begins at {at:%Y-%m-%d %H:%M:%S} UTC. {_last(look)}"
    return look.say("Retrying", Reason.BACK_OFF, message, requeue=(at - look.now) / timedelta(seconds=1))


def _last(look: Look) -> str:
    failure = look.status.last_failure
    return f"Last: {failure.reason}: {failure.message}" if failure else ""


def tell_backend_missing(look: Look) -> Step:
    """No check is made: it would be good for nothing."""
    message = "This cluster does not know PyTorchJob. Install Kubeflow training-operator v1; the job goes on by itself."
    return look.say("Pending", Reason.BACKEND_MISSING, message, requeue=waiting_seconds(look))


def begin_attempt(look: Look) -> Step:
    """Write its number down; the table then says what it begins with."""
    return look.write(**begun(look))
