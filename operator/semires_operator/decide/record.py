"""What is written down: facts that the cluster shows, and how an attempt ended."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from semires_operator.changes import run_by
from semires_operator.decide.look import STALE_SECONDS, Look, Step
from semires_operator.failure import Verdict
from semires_operator.launch import image_of
from semires_operator.observed import Observed, Pod
from semires_operator.outcome import Outcome
from semires_operator.progress import told_checkpoint, told_progress
from semires_operator.seen import Job
from semires_operator.status import (
    MAX_ATTEMPTS,
    Attempt,
    Checkpoint,
    Failure,
    Progress,
    Provenance,
    Status,
)
from semires_trainer import __version__

DIGEST = re.compile(r"^(?:docker-pullable://)?(?P<name>.+)@(?P<digest>sha256:[0-9a-f]{64})$")
STOPPED_BY_SIGNAL = (130, 143)
ENDS_OF_NO_INTEREST = (None, 0, *STOPPED_BY_SIGNAL)


def absorb(look: Look) -> Look:
    """Write down what the cluster shows, without deciding anything."""
    if not look.attempt_is_open:
        return look
    fields: dict[str, Any] = {}
    if look.child:
        fields["child"] = look.child.name
    started = [pod.started or look.now for pod in look.running_pods]
    if len(started) >= look.nodes and look.status.running_since is None:
        fields["running_since"] = min(max(started), look.now)
        fields["start_time"] = look.status.start_time or fields["running_since"]
    fields["last_checkpoint"] = _newest_checkpoint(look)
    fields["progress"] = _progress(look)
    fields["provenance"] = _provenance(look)
    return look.with_status(look.status.model_copy(update=fields))


def _newest_checkpoint(look: Look) -> Checkpoint | None:
    """By what the trainer answers, or by its last word. What comes later is newer: a run may roll back."""
    last_words = filter(None, (look.outcome_of(pod) for pod in look.training_pods))
    told = [outcome.last_checkpoint for outcome in last_words]
    if look.running_pods:
        told.append(told_checkpoint(look.answer))
    return next(filter(None, told), look.status.last_checkpoint)


def _progress(look: Look) -> Progress | None:
    """Figures, at most each progress_interval_seconds: every write costs everybody who watches."""
    known = look.status.progress
    if look.answer is None or not look.running_pods:
        return known
    told = told_progress(look.answer)
    if known is None or known.last_updated_time is None or told.last_updated_time is None:
        return told
    passed = abs((told.last_updated_time - known.last_updated_time).total_seconds())
    is_due = passed >= look.settings.progress_interval_seconds or told.stage != known.stage
    return told if is_due else known.model_copy(update={"stale": False})


def with_staleness(look: Look) -> Status:
    """The status of a running job with its progress marked if the trainer can't be asked."""
    progress = look.status.progress or Progress()
    told_at = max(filter(None, (progress.last_updated_time, look.status.running_since)), default=look.now)
    is_stale = look.answer is None and look.seconds_since(told_at) > STALE_SECONDS
    if look.status.progress is None and not is_stale:
        return look.status
    return look.status.model_copy(update={"progress": progress.model_copy(update={"stale": is_stale})})


def _provenance(look: Look) -> Provenance | None:
    """The image gets its digest once a node has told it, and keeps it."""
    known = look.status.provenance
    if known is None or "@" in known.image:
        return known
    name = known.image.rpartition(":")[0] if ":" in known.image.rpartition("/")[2] else known.image
    for pod in look.training_pods:
        resolved = DIGEST.match(pod.image_id)
        # another name is a mirror's or a local one, from which other nodes can't pull
        if resolved and resolved["name"] in {name, f"docker.io/{name}", f"docker.io/library/{name}"}:
            return known.model_copy(update={"image": f"{name}@{resolved['digest']}"})
    return known


def begun(look: Look) -> dict[str, Any]:
    """The fields of a new attempt. What was found out for the spec holds until a person edits that field of it."""
    known = look.status.provenance or Provenance()
    requested, micro_batch = look.spec.image or "", look.spec.training.micro_batch
    is_chosen = known.image and known.requested_image == requested
    chosen = {
        "image": known.image if is_chosen else image_of(look.spec, look.settings),
        "requested_image": requested,
        "operator_version": __version__,
    }
    is_tried = look.status.requested_micro_batch == micro_batch
    return {
        "attempt": look.status.attempt + 1,
        "attempt_created_at": look.now,
        "child": "",
        "retry_at": None,
        "running_since": None,
        "provenance": known.model_copy(update=chosen),
        "micro_batch": look.status.micro_batch if is_tried else None,
        "requested_micro_batch": micro_batch,
        "run_by_sha256": run_by(look.spec),
    }


def paused(look: Look) -> dict[str, Any]:
    """The fields of an attempt whose trainer runs no more: its running time is added up."""
    if look.status.running_since is None:
        return {}
    ran = max(0, round((_ended_at(look) - look.status.running_since).total_seconds()))
    return {"running_since": None, "active_seconds": look.status.active_seconds + ran}


def _ended_at(look: Look) -> datetime:
    """When the last of the trainers ended. Of pods that are gone only others may know: nobody need have looked then."""
    pods, child, progress = look.training_pods, look.child, look.status.progress
    if any(pod.alive for pod in pods):
        return look.now
    known = [pod.finished for pod in pods]
    if not any(known):
        known = [child.finished if child else None]
    if not any(known) and progress and not progress.stale:
        known = [progress.last_updated_time]
    return min(max(filter(None, known), default=look.now), look.now)


def failed(look: Look, verdict: Verdict) -> dict[str, Any]:
    """The fields after an attempt that did not succeed."""
    counted, free = verdict.action == "Retry", verdict.action == "RetryFree"
    failures, free_retries = look.status.failures + counted, look.status.free_retries + free
    is_small = verdict.micro_batch is not None and verdict.action != "Fail"
    return {
        **_ended(look, "Lost" if verdict.was_lost else "Failed", failure=verdict.failure, counted=counted),
        "failures": failures,
        "free_retries": free_retries,
        "last_failure": verdict.failure,
        "micro_batch": verdict.micro_batch if is_small else look.status.micro_batch,
        "retry_at": look.now + _back_off(look, failures if counted else free_retries),
    }


def _back_off(look: Look, repetitions: int) -> timedelta:
    """Doubles with each repetition, up to a longest; an attempt that ran for long enough starts over."""
    first, longest = look.settings.backoff_first_seconds, look.settings.backoff_longest_seconds
    if look.seconds_since(look.status.running_since) >= longest:
        return timedelta(seconds=first)
    return timedelta(seconds=min(longest, first * 2 ** min(max(0, repetitions - 1), 30)))


def stopped(look: Look, failure: Failure | None) -> dict[str, Any]:
    """The fields after an attempt that was stopped by us; it counts if that was because of a failure."""
    counted = failure is not None
    return {
        **_ended(look, "Stopped", failure=failure, counted=counted),
        "stopping": None,
        "failures": look.status.failures + counted,
        "last_failure": failure or look.status.last_failure,
        "retry_at": look.now + _back_off(look, look.status.failures + 1) if counted else None,
    }


def succeeded(look: Look, outcome: Outcome | None) -> dict[str, Any]:
    """The fields after success."""
    status = look.status
    progress = status.progress or Progress()
    last = (outcome.last_checkpoint if outcome else None) or status.last_checkpoint
    whole = {"progress_percentage": 100, "estimated_remaining_seconds": None, "stale": False}
    if last and last.step >= progress.steps > 0:  # the last answer was a little older; patience may end a run before
        whole |= {"epoch": progress.epochs, "step": progress.steps}
    return {
        **_ended(look, "Succeeded"),
        "stopping": None,
        "progress": progress.model_copy(update=whole),
        "results": outcome.results if outcome else (),
        "best_checkpoint": outcome.best_checkpoint if outcome else None,
        "last_checkpoint": last,
    }


def _ended(look: Look, how: str, *, failure: Failure | None = None, counted: bool = False) -> dict[str, Any]:
    entry = Attempt.model_validate(
        {
            "number": look.status.attempt,
            "ended": how,
            "counted": counted,
            "started_at": look.status.running_since,
            "ended_at": look.now,
            "failure": failure,
        }
    )
    return {**paused(look), "attempts": (*look.status.attempts, entry)[-MAX_ATTEMPTS:]}


def finished(look: Look, step: Step) -> Step:
    """The same step, for good. The table then says what becomes of the job."""
    ended = {"completion_time": look.now, "retry_at": None, "stopping": None}
    return Step(status=step.status.model_copy(update=ended), again=True)


def most_telling(pods: Iterable[Pod]) -> Pod | None:
    """The pod that failed by itself first; the others fell after it."""

    def order(pod: Pod) -> tuple[bool, bool, datetime]:
        return pod.exit_code in ENDS_OF_NO_INTEREST, pod.exit_code is None, pod.finished or pod.created

    return min(pods, key=order, default=None)


def wants_log(job: Job, seen: Observed) -> Pod | None:
    """The training pod whose last lines of log should be asked for before the next decision: the one that tells most
    of an attempt whose end is not written down yet, if it failed by itself."""
    ended = job.status.attempts[-1].number if job.status.attempts else 0
    current = [pod for pod in seen.pods if pod.attempt == job.status.attempt > ended and pod.role == "training"]
    pod = most_telling(sorted(current, key=lambda pod: pod.name))
    return pod if pod and not pod.alive and pod.exit_code not in ENDS_OF_NO_INTEREST else None
