"""What counts as a sentence that refers to an object."""

from __future__ import annotations

from typing import Any

from semires_trainer.data.fields import Record

MAX_WORDS = 200
"""The model reads about 20 tokens and REFER's sentences stay below 50 words: more is a wrong field."""

MAX_CHARACTERS = 4000


def checked_expression(value: Any, *, record: Record, field: str) -> str:
    """Return `value` without outer blanks; DataError naming record and field if it is no usable sentence."""
    if not isinstance(value, str):
        raise record.error(field, f"must be a string, got {type(value).__name__}", remedy="Quote it.")
    text = value.strip()
    if not text:
        raise record.error(field, "is an empty sentence", remedy="Name the object, or remove it.")
    words = len(text.split())
    if words > MAX_WORDS or len(text) > MAX_CHARACTERS:
        raise record.error(
            field,
            f"has {words} words, {len(text)} characters; at most {MAX_WORDS} and {MAX_CHARACTERS} are read",
            remedy="Write a short expression.",
        )
    return text
