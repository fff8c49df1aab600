"""How a run of several processes ended: torchrun turns every failure into exit code 1, this file tells which it was."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from semires_trainer import atomic

OUTCOME_FILE = "outcome.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The end of a run that was not a success."""

    message: str
    """One line for the user."""
    exit_code: int
    """Exit code of the design."""


def write_outcome(output: Path, outcome: Outcome) -> None:
    """Leave the outcome in the output folder."""
    atomic.write_json(output / OUTCOME_FILE, asdict(outcome))


def read_outcome(output: Path) -> Outcome | None:
    """The outcome that a rank left; None if none could."""
    path = output / OUTCOME_FILE
    return Outcome(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def clear_outcome(output: Path) -> None:
    """Forget the outcome of an earlier start."""
    (output / OUTCOME_FILE).unlink(missing_ok=True)
