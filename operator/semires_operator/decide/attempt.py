"""What follows while an attempt is under way: its check, its PyTorchJob, its pods, its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from semires_operator import names
from semires_operator.actions import Action, Create, Delete, Unbuildable
from semires_operator.decide.look import LAST_WORD_SECONDS, Look, Step
from semires_operator.decide.record import (
    failed,
    finished,
    most_telling,
    paused,
    succeeded,
    with_staleness,
)
from semires_operator.display import duration
from semires_operator.explain import Explanation, explain_queue, explain_stuck, explain_waiting
from semires_operator.failure import End, classify, removal_of
from semires_operator.observed import Child, Pod
from semires_operator.outcome import Outcome
from semires_operator.reasons import Reason
from semires_operator.seen import Job
from semires_operator.status import Phase, Preflight, Provenance

OVERDUE_SECONDS = 120.0
"""How much longer than it lets itself a check may run before it is ended from outside."""
SHORTEST_WAIT, LONGEST_WAIT = 5.0, 30.0
"""Between two looks at something that does not run: often at first, so that the reason is told within a minute."""


def waiting_seconds(look: Look) -> float:
    """Time until the next look at something that is waited for: it grows with what was waited."""
    return min(max(SHORTEST_WAIT, look.waited_seconds), LONGEST_WAIT)


# -- the check before an attempt


def preflight_ended(look: Look) -> bool:
    """Whether the check is over and its last word is there."""
    check = look.preflight
    return bool(
        check and check.ended and not look.preflight_is_done and look.end_is_known(check, look.pods(names.PREFLIGHT))
    )


def end_preflight(look: Look) -> Step:
    """Go on, or fail, or see that nothing is left to do."""
    check, pods = look.preflight, look.pods(names.PREFLIGHT)
    assert check is not None
    if check.state == "Failed":
        return _end_in_failure(look, check, pods)
    told = next(filter(None, map(look.outcome_of, pods)), None)
    found = told.check if told else None
    if found is None:
        return look.write(preflight=Preflight(attempt=look.status.attempt), attempt_created_at=look.now)
    known = look.with_status(
        look.status.model_copy(
            update={
                "preflight": found.found,
                "last_checkpoint": found.last_checkpoint or look.status.last_checkpoint,
                "attempt_created_at": look.now,
            }
        )
    )
    if found.complete and found.previous and found.previous.exit_code == 0:
        return _succeed(known, found.previous, "Everything was done already; no GPU was needed.")
    return known.write()


def preflight_is_skipped(look: Look) -> bool:
    """Whether the manifest leaves the check out; one under way is then left too."""
    is_over = look.preflight is not None and look.preflight.ended
    return not look.preflight_is_done and look.spec.preflight.mode == "Skip" and not is_over


def skip_preflight(look: Look) -> Step:
    """Go on without."""
    return look.write(preflight=Preflight(attempt=look.status.attempt, skipped=True))


def preflight_is_missing(look: Look) -> bool:
    """Whether the check has to be made, or made again because somebody deleted it."""
    return not look.preflight_is_done and look.preflight is None


def create_preflight(look: Look) -> Step:
    """Make it. Children of earlier attempts are not needed any more."""
    message = f"Attempt {look.status.attempt}: checking configuration, storage and data."
    try:
        body = look.builder.build_preflight(_job_as_known(look), look.status.attempt, look.settings)
    except Unbuildable as problem:
        return _unbuildable(look, problem)
    known = look.with_status(look.status.model_copy(update=_document(look, body)))
    return _creating(known, "Preflight", Reason.CHECKING_INPUTS, message, body)


def preflight_is_overdue(look: Look) -> bool:
    """Whether the check has run for longer than it lets itself: something hangs that even its own alarm can't end.

    Not the pod's own deadline: the kubelet's clock also runs while an image is pulled or a Secret is waited for.
    """
    check, limit = look.preflight, look.spec.preflight.deadline_seconds + OVERDUE_SECONDS
    if check is None or check.ended or look.preflight_is_done:
        return False
    running = [pod for pod in look.pods(names.PREFLIGHT) if pod.phase == "Running" and not pod.deleting_since]
    return any(look.seconds_since(pod.started) > limit for pod in running)


def end_overdue_preflight(look: Look) -> Step:
    """As if its Job had told it; the Job is deleted afterwards, as everything that outlives its attempt."""
    assert look.preflight is not None
    late = replace(look.preflight, reason="DeadlineExceeded")
    return _end_in_failure(look, late, look.pods(names.PREFLIGHT))


def watch_preflight(look: Look) -> Step:
    """It waits for its turn or its pod, or runs."""
    check, pods = look.preflight, look.pods(names.PREFLIGHT)
    assert check is not None
    if check.suspended_by_others and not pods:
        queue = explain_queue(check, look.seen.workload)
        return look.say("Queued", queue.reason, queue.message, *_old_deletions(look), requeue=waiting_seconds(look))
    why = _explained(look, check, pods)
    if why is None or check.deleting or any(pod.phase == "Running" for pod in pods):
        message = f"Attempt {look.status.attempt}: checking configuration, storage and data."
        why = Explanation(reason=Reason.CHECKING_INPUTS, message=message)
    return look.say("Preflight", why.reason, why.message, *_old_deletions(look), requeue=waiting_seconds(look))


# -- the training


def earlier_lives(look: Look) -> bool:
    """Whether anything made earlier may still do something, while the next thing is to be made."""
    made = look.child if look.preflight_is_done else look.preflight
    return made is None and (any(not child.ended for child in look.old_children) or bool(look.blocking_pods))


def create_child(look: Look) -> Step:
    """Make the PyTorchJob."""
    if not look.seen.backend.pytorchjobs:
        why = "This cluster does not know PyTorchJob. Install Kubeflow training-operator v1; the job goes on by itself."
        return look.say("Pending", Reason.BACKEND_MISSING, why, requeue=waiting_seconds(look))
    try:
        body = look.builder.build_child(_job_as_known(look), look.status.attempt, look.settings, look.status.preflight)
    except Unbuildable as problem:
        return _unbuildable(look, problem)
    known = look.with_status(look.status.model_copy(update=_document(look, body)))
    return _creating(known, "Pending", Reason.WAITING_FOR_PODS, _pods_awaited(look), body)


def is_held_back(look: Look) -> bool:
    """Whether somebody, Kueue for example, has suspended the PyTorchJob."""
    return look.child is not None and look.child.suspended_by_others and not look.running_pods


def was_evicted(look: Look) -> bool:
    """Whether the trainer ran and its pods are gone, while the PyTorchJob may start others."""
    child = look.child
    may_go_on = child is not None and not child.ended and not child.deleting
    has_none = not look.running_pods and all(pod.alive for pod in look.training_pods)
    return look.status.running_since is not None and may_go_on and has_none


def wait_again(look: Look) -> Step:
    """The attempt goes on with other pods; the time without any does not count."""
    return look.write(**paused(look), attempt_created_at=look.now)


def tell_queue(look: Look) -> Step:
    """It waits for its turn."""
    assert look.child is not None
    why = explain_queue(look.child, look.seen.workload)
    return look.say("Queued", why.reason, why.message, requeue=waiting_seconds(look))


def all_pods_run(look: Look) -> bool:
    """Whether the trainer runs on every node."""
    return len(look.running_pods) >= look.nodes


def watch_training(look: Look) -> Step:
    """It trains. Whether its figures are new is told, and is never a reason to do anything."""
    known = look.with_status(with_staleness(look))
    message = f"Attempt {look.status.attempt} trains."
    if known.is_stalled():
        message = f"The trainer answers, but has made no progress for {duration(known.health_limit_seconds)} or longer."
        degraded = (Reason.STALLED, message)
        return known.say("Running", Reason.STALLED, message, requeue=look.settings.poll_seconds, degraded=degraded)
    return known.say("Running", Reason.TRAINING, message, requeue=look.settings.poll_seconds)


def watch_pending(look: Look) -> Step:
    """It waits for its pods."""
    assert look.child is not None
    why = _explained(look, look.child, look.training_pods)
    if why is None:
        why = Explanation(reason=Reason.WAITING_FOR_PODS, message=_pods_awaited(look))
    return look.say("Pending", why.reason, why.message, requeue=waiting_seconds(look))


# -- the end


def child_succeeded(look: Look) -> bool:
    """Whether the training is done: rank 0 has published everything, and the other nodes have ended too.

    training-operator looks at one pod, and rank 0 may be in another: while one lives, only results are proof.
    """
    child, pods = look.child, look.training_pods
    if child is None or child.state != "Succeeded" or not pods:
        return False
    has_results = any(outcome.results for outcome in filter(None, map(look.outcome_of, pods)))
    if any(pod.alive for pod in pods):
        return has_results and look.seconds_since(child.finished) > LAST_WORD_SECONDS
    return has_results or pods[0].exit_code == 0


def succeed(look: Look) -> Step:
    """The job is done."""
    outcomes = list(filter(None, map(look.outcome_of, look.training_pods)))
    told = max(outcomes, key=lambda outcome: bool(outcome.results), default=None)
    words = "All stages are done." if told else "All stages are done; the results could not be read from the pod."
    return _succeed(look, told, words)


def child_ended(look: Look) -> bool:
    """Whether the training is over and nothing more can be learned of it."""
    child, pods = look.child, look.training_pods
    if child is None or not child.ended or not look.end_is_known(child, pods):
        return False
    # of several nodes some are done before rank 0 has published everything
    return child.state == "Failed" or not any(pod.alive for pod in pods)


def end_child(look: Look) -> Step:
    """Repeat it or fail. One that has succeeded but left no pod is read from the output by the next check."""
    assert look.child is not None
    return _end_in_failure(look, look.child, look.training_pods)


def child_vanished(look: Look) -> bool:
    """Whether there was a PyTorchJob and somebody has deleted it, and its pods have gone too."""
    is_gone = look.child is None and look.status.child != ""
    return is_gone and not any(pod.alive and not look.is_stuck(pod) for pod in look.training_pods)


def end_vanished(look: Look) -> Step:
    """Repeat it."""
    return _end_in_failure(look, None, look.training_pods)


def is_ending(look: Look) -> bool:
    """Whether the attempt is about to end and its last words are not all there."""
    check, child = look.preflight, look.child
    checked = check is not None and check.ended and not look.preflight_is_done
    if child is None:
        return checked or look.status.child != ""
    is_untold = not child.suspended_by_others and any(not pod.alive for pod in look.training_pods)
    return child.ended or child.deleting or is_untold


def wait_for_end(look: Look) -> Step:
    """Wait for the last words; a pod that is stuck is told."""
    phase: Phase = "Running" if look.preflight_is_done else "Preflight"
    for pod in look.stuck_pods:
        why = explain_stuck(pod)
        return look.say(phase, why.reason, why.message, requeue=LONGEST_WAIT)
    for pod in look.own_pods:
        if pod.alive and pod.deleting_since:
            # written down, since a pod that was removed is gone before its end is seen
            return look.say(phase, Reason.DISRUPTED, removal_of(pod), requeue=SHORTEST_WAIT)
    if look.status.reason == Reason.DISRUPTED:
        return look.say(phase, Reason.DISRUPTED, look.status.message, requeue=SHORTEST_WAIT)
    message = f"Attempt {look.status.attempt} has ended; its pods' last words are waited for."
    return look.say(phase, Reason.PODS_ENDING, message, requeue=SHORTEST_WAIT)


# -- how the above is said


def _end_in_failure(look: Look, child: Child | None, pods: Iterable[Pod]) -> Step:
    pod = most_telling(pods)
    removal = look.status.message if look.status.reason == Reason.DISRUPTED else ""
    outcome = look.outcome_of(pod) if pod else None
    end = End(child=child, pod=pod, outcome=outcome, log_tail=look.seen.log_tail, removal=removal)
    verdict = classify(end, look.spec.failure_policy.rules)
    known = look.with_status(look.status.model_copy(update=failed(look, verdict)))
    if verdict.action != "Fail":
        return known.write()
    return finished(look, known.say("Failed", verdict.reason, verdict.failure.message))


def _succeed(look: Look, outcome: Outcome | None, message: str) -> Step:
    known = look.with_status(look.status.model_copy(update=succeeded(look, outcome)))
    return finished(look, known.say("Succeeded", Reason.COMPLETED, message))


def _explained(look: Look, child: Child, pods: tuple[Pod, ...]) -> Explanation | None:
    stuck = next((pod for pod in pods if look.is_stuck(pod)), None)
    if stuck:
        return explain_stuck(stuck)
    limit = look.settings.container_creating_seconds
    return explain_waiting(child, pods, look.seen.warnings, now=look.now, creating_seconds=limit)


def _creating(look: Look, phase: Phase, reason: Reason, message: str, body: dict[str, Any]) -> Step:
    actions: tuple[Action, ...] = (*_old_deletions(look), Create(body=body))
    return look.say(phase, reason, message, *actions, requeue=waiting_seconds(look))


def _old_deletions(look: Look) -> tuple[Delete, ...]:
    """PyTorchJobs of earlier attempts: what they had to say stands in the status."""
    return tuple(
        Delete(kind="PyTorchJob", name=child.name, uid=child.uid) for child in look.old_children if not child.deleting
    )


def _unbuildable(look: Look, problem: Unbuildable) -> Step:
    reason = Reason(problem.reason) if problem.reason in set(Reason) else Reason.SPEC_INVALID
    return look.say("Pending", reason, str(problem), requeue=LONGEST_WAIT)


def _pods_awaited(look: Look) -> str:
    return f"Attempt {look.status.attempt} waits for its pods."


def _job_as_known(look: Look) -> Job:
    """The job with the status as it will be written: image and micro-batch stand there."""
    return replace(look.job, status=look.status)


def _document(look: Look, body: dict[str, Any]) -> dict[str, Any]:
    """Provenance of the attempt that `body` begins."""
    known = look.status.provenance or Provenance()
    sha256 = body["metadata"]["annotations"][names.DOCUMENT_ANNOTATION]
    return {"provenance": known.model_copy(update={"document_sha256": sha256})}
