"""How a trainer or a preflight ended, as its termination message tells: checked like everything out of a pod. Pure.

The format is the trainer's (semires_trainer.outcome); a preflight adds the key "preflight".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from semires_operator.status import MAX_MESSAGE, Checkpoint, Preflight, Score
from semires_operator.untrusted import checkpoint, parse_object, part, told, whole, word

LONGEST = 4096
"""Characters of a termination message, as Kubernetes keeps it."""
SCHEMA_VERSION = 1
MOST_SCORES, MOST_WORDS, LONGEST_WARNING = 64, 8, 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What a preflight found."""

    complete: bool
    """All stages are done: nothing needs a GPU."""
    found: Preflight
    """For the status."""
    last_checkpoint: Checkpoint | None
    """The newest verified checkpoint."""
    previous: Outcome | None
    """Of the newest earlier attempt, from the output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How it ended."""

    exit_code: int
    results: tuple[Score, ...] = ()
    best_checkpoint: Checkpoint | None = None
    last_checkpoint: Checkpoint | None = None
    reason: str = ""
    """The trainer's word for an error; empty if there is none."""
    message: str = ""
    """What happened and what to do, or what was saved at a stop."""
    field: str = ""
    """The field of the manifest to change."""
    micro_batch: int | None = None
    """The micro-batch that would fit, after GPU memory was exhausted."""
    check: Check | None = None
    """Of a preflight."""


def read_outcome(message: str, *, job_uid: str, attempt: int) -> Outcome | None:
    """The outcome in a termination message; None if there is none, or it is another attempt's."""
    document = parse_object(message, longest=LONGEST)
    if document is None or document.get("attempt") != attempt:
        return None
    outcome, found = _outcome(document, job_uid), _object(document, "preflight")
    return replace(outcome, check=_check(found, job_uid=job_uid, attempt=attempt)) if outcome and found else outcome


def _outcome(document: Mapping[str, Any], job_uid: str) -> Outcome | None:
    """All but what a preflight found: an earlier outcome has its own in it, of no interest any more."""
    code = whole(document.get("exitCode"))
    if document.get("schemaVersion") != SCHEMA_VERSION or document.get("jobUid") != job_uid or code is None:
        return None
    error, stopped = _object(document, "error"), _object(document, "stopped")
    scores = document.get("results")
    return Outcome(
        exit_code=code,
        results=tuple(filter(None, map(_score, scores[:MOST_SCORES]))) if isinstance(scores, list) else (),
        best_checkpoint=checkpoint(document.get("bestCheckpoint")),
        last_checkpoint=checkpoint(document.get("lastCheckpoint")),
        reason=word(told(error.get("reason"), longest=64)),
        message=told(error.get("message") or stopped.get("message"), longest=MAX_MESSAGE),
        field=told(error.get("field"), longest=256),
        micro_batch=whole(error.get("microBatch")) or None,
    )


def _check(found: Mapping[str, Any], *, job_uid: str, attempt: int) -> Check:
    counts = ("ephemeralStorageBytes", "images", "labeled")
    stages = tuple(filter(None, map(word, _list(found, "stagesDone")[:MOST_WORDS])))
    warnings = (told(text, longest=LONGEST_WARNING) for text in _list(found, "warnings")[:MOST_WORDS])
    return Check(
        complete=found.get("complete") is True,
        found=Preflight.model_validate(
            {
                "attempt": attempt,
                **{name: whole(found.get(name)) for name in counts},
                "stagesDone": stages,
                "warnings": tuple(filter(None, warnings)),
            }
        ),
        last_checkpoint=checkpoint(found.get("lastCheckpoint")),
        previous=_outcome(_object(found, "previousOutcome"), job_uid),
    )


def _score(value: object) -> Score | None:
    """A row of the results; figures are numbers there, decimals in a status."""
    if not isinstance(value, dict):
        return None
    figures = {name: value.get(name) for name in ("oIoU", "mIoU")}
    if not all(isinstance(figure, int | float) and 0 <= figure <= 100 for figure in figures.values()):
        return None
    names = {name: word(value.get(name)) for name in ("model", "split", "size")}
    return part(Score, {**names, **{name: f"{figure:.6g}" for name, figure in figures.items()}})


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    return value if isinstance(value, list) else []
