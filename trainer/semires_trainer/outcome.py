"""How a run ended, for people and programs: a JSON object of at most 4 KiB.

A rank that fails leaves its own (`end-<rank>.json`); the supervisor makes one of them and of what it saw itself.
It goes to the output as `outcome-a<N>.json`, and into the pod's termination message.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from semires_trainer import atomic
from semires_trainer.errors import SemiresError
from semires_trainer.orders import Attempt

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
TERMINATION_LOG = "SEMIRES_TERMINATION_LOG"
LONGEST_BYTES = 4096
"""What Kubernetes keeps of a termination message."""
LONGEST_MESSAGE, LONGEST_FIELD, LONGEST_REFERENCE = 1500, 250, 900
"""Bytes in JSON of what has no other limit: together they leave room for the rest."""
BUG, PEER_LOST = "Unexpected", "PeerLost"


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a rank ended, unless it did all it was told."""

    exit_code: int
    """Exit code of the design."""
    reason: str
    """A word for programs."""
    message: str
    """One line for people."""
    field: str = ""
    """The field of the manifest to change."""
    micro_batch: int | None = None
    """The micro-batch that would fit, after GPU memory was exhausted."""
    saved_step: int | None = None
    """Steps of the run that the last checkpoint holds, after a stop."""


def end_of(error: SemiresError) -> End:
    """The end that an error is."""
    return End(
        exit_code=error.exit_code,
        reason=error.reason,
        message=str(error),
        field=error.field,
        micro_batch=getattr(error, "micro_batch", None),
    )


def write_end(path: Path, end: End) -> None:
    """Leave an end for the supervisor."""
    atomic.write_json(path, asdict(end))


def read_end(path: Path) -> End | None:
    """The end a rank left; None if it left none."""
    return End(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def worst(ends: Iterable[End]) -> End | None:
    """The end that tells most: an error of the user's before a stop, a stop before a bug, a lost peer last."""

    def order(end: End) -> tuple[bool, bool, bool, bool]:
        return end.reason == PEER_LOST, end.exit_code == 150, end.reason == BUG, end.exit_code in (130, 143)

    return min(ends, key=order, default=None)


def outcome_json(
    attempt: Attempt,
    end: End | None,
    *,
    results: Iterable[dict[str, Any]] = (),
    best_checkpoint: dict[str, Any] | None = None,
    last_checkpoint: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The outcome; `end` None is success. Messages are cut, and results left out, to keep to `LONGEST_BYTES`."""
    outcome: dict[str, Any] = {
        "schemaVersion": SCHEMA_VERSION,
        "job": attempt.job,
        "jobUid": attempt.job_uid,
        "attempt": attempt.number,
        "podUid": attempt.pod_uid,
        "exitCode": end.exit_code if end else 0,
        "results": list(results),
        "bestCheckpoint": _if_short(best_checkpoint),
        "lastCheckpoint": _if_short(last_checkpoint),
    }
    if end and end.exit_code in (130, 143):
        outcome["stopped"] = {"message": _cut(end.message, LONGEST_MESSAGE), "savedStep": end.saved_step}
    elif end:
        message, field = _cut(end.message, LONGEST_MESSAGE), _cut(end.field, LONGEST_FIELD)
        outcome["error"] = {"reason": end.reason, "message": message, "field": field}
        if end.micro_batch is not None:
            outcome["error"]["microBatch"] = end.micro_batch
    while len(encoded(outcome)) > LONGEST_BYTES and outcome["results"]:
        outcome["results"].pop()
    return outcome


def encoded(outcome: dict[str, Any]) -> bytes:
    """The outcome in bytes."""
    return json.dumps(outcome, separators=(",", ":"), allow_nan=False).encode()


def _cut(text: str, longest: int) -> str:
    """The beginning of a text that takes at most `longest` bytes in JSON, where a letter may take twelve."""
    sizes = itertools.accumulate(len(json.dumps(letter)) - 2 for letter in text[:longest])
    return text[: sum(size <= longest for size in sizes)]


def _if_short(reference: dict[str, Any] | None) -> dict[str, Any] | None:
    """A checkpoint, unless its URI is too long: the ledger names it too."""
    return reference if len(json.dumps(reference)) <= LONGEST_REFERENCE else None


def results_of(path: Path) -> list[dict[str, Any]]:
    """The scores of results.json in short; none if there is none."""
    if not path.is_file():
        return []
    scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
    names = ("model", "split", "size", "oIoU", "mIoU")
    return [{name: score[name] for name in names} for score in scores]


def write_termination_message(outcome: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Leave the outcome where the kubelet looks for it, if there is such a place and it can be written to."""
    path = environment.get(TERMINATION_LOG)
    if path:
        try:
            Path(path).write_bytes(encoded(outcome))
        except OSError as error:
            logger.warning("The outcome can't be left in %s: %s.", path, error.strerror)
