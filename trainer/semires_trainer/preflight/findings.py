"""What the checks have found so far, and how it is told in the few bytes of a termination message."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from semires_trainer.outcome import LONGEST_BYTES, encoded

MOST_WARNINGS, LONGEST_WARNING = 8, 512
"""As many, of as many characters, as the status of a job holds."""
SHORT_MESSAGE = 300
"""Characters left of the message of an earlier attempt where there is no room for more."""


@dataclass(kw_only=True)
class Findings:
    """Filled by the checks in their thread; may be told at any time. None is what is not known (yet)."""

    doing: str = "the configuration"
    """What is being looked at."""
    complete: bool = False
    """Whether nothing is left to do."""
    stages_done: tuple[str, ...] = ()
    """Stages that need not be done again: proposals, burn-in, train, evaluate."""
    last_checkpoint: dict[str, Any] | None = None
    """The newest one that is whole: uri, step, sha256, time."""
    images: int | None = None
    """Images that are trained on."""
    labeled: int | None = None
    """Of these, labelled ones."""
    ephemeral_storage_bytes: int | None = None
    """Disk of the node that the run needs."""
    previous_outcome: dict[str, Any] | None = None
    """How the newest earlier attempt of this job ended."""
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Take note of what is odd, but no reason to stop."""
        if text not in self.warnings:
            self.warnings.append(text)

    def as_json(self) -> dict[str, Any]:
        """The object `preflight` of an outcome."""
        return {
            "complete": self.complete,
            "stagesDone": list(self.stages_done),
            "lastCheckpoint": self.last_checkpoint,
            "images": self.images,
            "labeled": self.labeled,
            "ephemeralStorageBytes": self.ephemeral_storage_bytes,
            "previousOutcome": copy.deepcopy(self.previous_outcome),
            "warnings": [text[:LONGEST_WARNING] for text in self.warnings[:MOST_WARNINGS]],
        }


def with_findings(outcome: dict[str, Any], found: Findings) -> dict[str, Any]:
    """The outcome with what was found; the least needed is left out until it fits a termination message."""
    told = {**outcome, "preflight": found.as_json()}
    shorter = _shorter(told["preflight"])
    while len(encoded(told)) > LONGEST_BYTES and next(shorter, None) is not None:
        pass
    return told


def _shorter(told: dict[str, Any]) -> Iterator[str]:
    """Leave out one thing after the other, in place; yields what it was."""
    previous, warnings = told["previousOutcome"] or {}, told["warnings"]
    for part in ("error", "stopped"):
        if part in previous:
            previous[part]["message"] = str(previous[part].get("message", ""))[:SHORT_MESSAGE]
            yield "the end of a message"
    while warnings:
        warnings.pop()
        yield "a warning"
    while previous.get("results"):
        previous["results"].pop()
        yield "a result"
    told["previousOutcome"] = None
    yield "the previous outcome"
    told["lastCheckpoint"] = None
    yield "the checkpoint, whose URI is long"


class _IntoFindings(logging.Handler):
    def __init__(self, found: Findings) -> None:
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self._found.warn(record.getMessage())


@contextlib.contextmanager
def hearing_warnings(found: Findings) -> Iterator[None]:
    """What our modules warn of in the log is found too."""
    handler, ours = _IntoFindings(found), logging.getLogger("semires_trainer")
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)
