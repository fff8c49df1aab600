"""What to do next about a job: what its state and reason ask for, then the commands that help. Pure."""

from __future__ import annotations

from datetime import datetime

from semires_operator.client.model import Job
from semires_operator.reasons import ABOUT, Reason

UNSEEN_SECONDS = 60.0
"""A job that no operator has looked at for so long has none."""
NOTHING = "Nothing to do."


def next_steps(job: Job, now: datetime) -> list[str]:
    """Sentences, the most important first; commands in backticks."""
    if is_unseen(job, now):
        return [
            "No operator has looked at this job: is it running, and does it watch this namespace? "
            "`kubectl get pods -A | grep semires-operator`"
        ]
    return [*_remedies(job), *_commands(job)]


def is_unseen(job: Job, now: datetime) -> bool:
    """Whether the operator should have written a status by now."""
    is_old = job.created is not None and (now - job.created).total_seconds() > UNSEEN_SECONDS
    return is_old and job.status.observed_generation == 0


def _remedies(job: Job) -> list[str]:
    """What docs/operations.md says about the reasons that ask for a person."""
    asking = [job.status.reason]
    for type_ in ("Degraded", "Failed"):
        condition = job.condition(type_)
        if condition is not None and condition.status == "True":
            asking.append(condition.reason)
    fresh = job.condition("CheckpointFresh")
    if fresh is not None and fresh.status == "False":
        asking.append(fresh.reason)
    if job.status.phase == "Failed" and job.status.last_failure is not None:
        asking.append(job.status.last_failure.reason)
    known = [ABOUT[Reason(word)].remedy for word in dict.fromkeys(asking) if word in set(Reason)]
    return list(dict.fromkeys(remedy for remedy in known if remedy != NOTHING))


def _commands(job: Job) -> list[str]:
    place = f"{job.name} -n {job.namespace}"
    status, output = job.status, job.spec.get("output", "")
    if status.phase == "Succeeded":
        return [f"Everything is in {output}: results.json, model/, curves.png, overlays/."]
    if status.phase == "Failed":
        log = f"`semires logs {place}`, and all of it in {output}/log-a{status.attempt}.jsonl"
        return [f"Read the log: {log}.", f"Then submit under another name, or after `kubectl delete srj {place}`."]
    if status.phase == "Suspended":
        return [f"Go on from the last checkpoint: `semires resume {place}`."]
    if status.phase == "Preflight":
        return [f"See what is checked: `semires logs {place} --preflight -f`."]
    if status.phase == "Running":
        return [f"Follow it: `semires logs {place} -f`.", f"Give its GPUs back for a while: `semires suspend {place}`."]
    return [f"Wait for it: `semires wait {place} --for running --timeout 30m`."]
