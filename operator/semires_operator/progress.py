"""An answer of a trainer's /progress, checked: whoever runs in the pod may have written anything. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from semires_operator.observed import Answer
from semires_operator.status import Checkpoint, Metric, Progress, Status
from semires_operator.untrusted import checkpoint, moment, parse_object, part, whole, word

LONGEST_BYTES = 64 << 10
SCHEMA_VERSION = 1
METRIC_NAMES = ("loss", "learningRate", "imagesPerSecond", "matchRatio", "oIoU", "mIoU")
"""Of the trainer; others are left out. oIoU and mIoU in percent."""
MOST_METRICS = 64


def read_answer(content: bytes, *, job_uid: str, attempt: int, pod: str, pod_uid: str, now: datetime) -> Answer | None:
    """The answer that `content` is; None if it is no valid one, or speaks of another job, attempt or pod."""
    document = parse_object(content, longest=LONGEST_BYTES)
    if document is None or document.get("schemaVersion") != SCHEMA_VERSION:
        return None
    identity = (document.get("jobUid"), document.get("attempt"), document.get("podUid"))
    progress = _progress(document, now) if identity == (job_uid, attempt, pod_uid) else None
    if progress is None:
        return None
    last = checkpoint(document.get("lastCheckpoint"))
    told = {"progress": progress.model_dump(mode="json", by_alias=True, exclude_none=True)}
    if last:
        told["lastCheckpoint"] = last.model_dump(mode="json", by_alias=True, exclude_none=True)
    return Answer(time=now, attempt=attempt, pod=pod, document=told)


def speaking(answers: Sequence[Answer | None], status: Status) -> Answer | None:
    """The answer that speaks for the attempt, of those that its running pods gave; None is a pod that gave none.

    Rank 0 may be on any of them. Pages of other nodes have no time, and rank 0's has none before its first report: they
    speak of the start if no pod is missing, and say nothing once rank 0 has told where it is.
    """
    given = [answer for answer in answers if answer]
    told = [(told_progress(answer).last_updated_time, answer) for answer in given]
    timed = [(time, answer) for time, answer in told if time]
    if timed:
        return max(timed, key=itemgetter(0))[1]
    starts = len(given) == len(answers) and not _has_told(status)
    return given[0] if given and starts else None


def _has_told(status: Status) -> bool:
    """Whether rank 0 has told where it is since the trainer runs."""
    since, last = status.running_since, status.progress.last_updated_time if status.progress else None
    return bool(since and last and last >= since)


def told_progress(answer: Answer) -> Progress:
    """What an answer says of how far the run is."""
    return Progress.model_validate(answer.document["progress"])


def told_checkpoint(answer: Answer | None) -> Checkpoint | None:
    """The checkpoint that an answer names."""
    last = answer.document.get("lastCheckpoint") if answer else None
    return Checkpoint.model_validate(last) if last else None


def _progress(document: dict[str, Any], now: datetime) -> Progress | None:
    time = document.get("lastUpdatedTime")
    updated = moment(time)
    metrics = _metrics(document.get("metrics", []))
    if (time is not None and updated is None) or metrics is None:
        return None
    counts = ("epoch", "epochs", "step", "steps", "progressPercentage", "estimatedRemainingSeconds")
    if any(document.get(name) is not None and whole(document[name]) is None for name in counts):
        return None
    fields = {name: document.get(name) for name in counts}
    # A clock that is ahead may not hide that nothing moves.
    updated = min(updated, now.replace(microsecond=0)) if updated else None
    return part(
        Progress,
        {**fields, "stage": word(document.get("stage")), "metrics": metrics, "lastUpdatedTime": updated},
    )


def _metrics(listed: object) -> tuple[Metric, ...] | None:
    """The metrics with known names, each once; None if it is no list of metrics."""
    if not isinstance(listed, list) or len(listed) > MOST_METRICS:
        return None
    found: dict[str, Metric] = {}
    for entry in listed:
        metric = part(Metric, {"name": entry.get("name"), "value": entry.get("value")}) if _is_metric(entry) else None
        if metric is None or not math.isfinite(float(metric.value)):
            return None
        if metric.name in METRIC_NAMES:
            found.setdefault(metric.name, metric)
    return tuple(found[name] for name in METRIC_NAMES if name in found)


def _is_metric(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("value"), str)
