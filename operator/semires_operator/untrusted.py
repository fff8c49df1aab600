"""Values that come out of pods: whoever runs in one may write anything there. Pure.

Everything is bounded, control characters are taken out, and what does not fit is as if it were not there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from semires_operator.redaction import without_credentials
from semires_operator.status import Checkpoint

EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
KEPT = "\n\t"
LONGEST_TOLD = 4096
"""Characters of a sentence that are looked at: a termination message has no more."""
Part = TypeVar("Part", bound=BaseModel)


def parse_object(content: bytes | str, *, longest: int) -> dict[str, Any] | None:
    """A JSON object of at most `longest` characters or bytes; None if it is something else, or has numbers that are
    not finite."""
    if len(content) > longest:
        return None
    try:
        value = json.loads(content, parse_constant=_refuse)
        return value if isinstance(value, dict) and _is_finite(value) else None
    except (ValueError, RecursionError):  # the parser may go deeper than Python does
        return None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _is_finite(value: Any) -> bool:
    """1e999 is JSON, and infinite in Python."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def clean(text: object, *, longest: int) -> str:
    """A text without control characters and half letters, cut to `longest`; empty if it is no text."""
    if not isinstance(text, str):
        return ""
    kept = "".join(letter for letter in text[: 2 * longest] if letter.isprintable() or letter in KEPT)
    return kept.encode("utf-8", "ignore").decode("utf-8")[:longest].strip()


def told(text: object, *, longest: int) -> str:
    """A sentence for people: clean, without credentials. They are looked for before it is cut: half of one is none."""
    return clean(without_credentials(clean(text, longest=LONGEST_TOLD)), longest=longest)


def word(text: object) -> str:
    """A short text on one line."""
    return " ".join(clean(text, longest=64).split())


def whole(value: object) -> int | None:
    """A count; None if it is none."""
    return value if type(value) is int and 0 <= value < 2**53 else None


def moment(text: object) -> datetime | None:
    """A time of this age, in UTC and whole seconds; None if it is none, or has no time zone."""
    if not isinstance(text, str) or len(text) > 64:
        return None
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC).replace(microsecond=0) if time.tzinfo and EARLIEST < time < LATEST else None
    except (ValueError, OverflowError):
        return None


def part(model: type[Part], fields: Mapping[str, Any]) -> Part | None:
    """A part of the status, if the fields fit into it."""
    try:
        return model.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError:
        return None


def checkpoint(value: object) -> Checkpoint | None:
    """A checkpoint as trainers name it."""
    if not isinstance(value, dict):
        return None
    uri = value.get("uri")
    if not isinstance(uri, str) or not uri or not uri.isprintable():
        return None
    names = {"uri": uri, "step": whole(value.get("step")), "sha256": value.get("sha256")}
    return part(Checkpoint, {**names, "time": moment(value.get("time"))})
