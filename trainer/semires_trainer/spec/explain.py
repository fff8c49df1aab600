"""From pydantic's errors to one line a user can act on: full path, value received, remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from semires_trainer.errors import ConfigError

SHOWN_CHARACTERS = 60


def show(value: object) -> str:
    """The value as received, shortened."""
    if isinstance(value, dict | list | tuple):
        kind = "mapping" if isinstance(value, dict) else "list"
        return f"a {kind} of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def join_path(parts: Iterable[object]) -> str:
    """("spec", "dataset", "imageIds", 3) -> "spec.dataset.imageIds[3]"."""
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt word: the nearest known one, or all of them."""
    names = list(known)
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    if close:
        return f'Did you mean "{folded[close[0]]}"?'
    return f"Known are: {', '.join(names)}" if names else "Remove it"


def models_in(annotation: object) -> list[type[BaseModel]]:
    """The pydantic models named in a type annotation, through Optional, Annotated and containers."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in get_args(annotation) for model in models_in(part)]


def keys_of(model: type[BaseModel]) -> dict[str, Any]:
    """Key in YAML -> type annotation."""
    return {info.alias or name: info.annotation for name, info in model.model_fields.items()}


def _known_keys(model: type[BaseModel], parents: Iterable[object]) -> list[str]:
    current = model
    for part in parents:
        if isinstance(part, str):
            inner = models_in(keys_of(current).get(part))
            if not inner:
                return []
            current = inner[0]
    return list(keys_of(current))


def _expected_words(error: ErrorDetails) -> list[str]:
    text = str(error.get("ctx", {}).get("expected", ""))
    return [word.strip().strip("'") for word in text.replace(" or ", ", ").split(",")]


def _wrong_word(error: ErrorDetails) -> tuple[str, str]:
    value, words = error["input"], _expected_words(error)
    choice = " or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}"
    problem = f"expected {choice}, got {show(value)}"
    if isinstance(value, bool) and str(value) in words:
        return problem, f'Write it in quotes: "{value}"'
    return problem, did_you_mean(str(value), words)


_TYPE_REMEDIES = {
    "int_type": ("expected a whole number", "Write it without quotes and without a point"),
    "bool_type": ("expected true or false", "Write true or false without quotes"),
    "string_type": ("expected a string", "Write it in quotes"),
    "model_type": ("expected a mapping", "Write key: value pairs"),
    "model_attributes_type": ("expected a mapping", "Write key: value pairs"),
    "dict_type": ("expected a mapping", "Write key: value pairs"),
    "tuple_type": ("expected a list", "Write [a, b]"),
}

_LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
    "multiple_of": ("multiple_of", "a multiple of"),
    "string_too_short": ("min_length", "of length at least"),
    "string_too_long": ("max_length", "of length at most"),
    "too_short": ("min_length", "of length at least"),
    "too_long": ("max_length", "of length at most"),
}


def _describe(model: type[BaseModel], error: ErrorDetails) -> tuple[str, str]:
    """Problem and remedy of one error."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key (value {show(value)})", did_you_mean(
            str(error["loc"][-1]), _known_keys(model, error["loc"][:-1])
        )
    if kind == "missing":
        return "is missing", "Add it"
    if kind == "literal_error":
        return _wrong_word(error)
    if kind in _TYPE_REMEDIES:
        problem, remedy = _TYPE_REMEDIES[kind]
        return f"{problem}, got {show(value)}", remedy
    if kind in _LIMITS:
        key, words = _LIMITS[kind]
        return f"{show(value)} is not allowed", f"It must be {words} {context[key]}"
    if kind == "string_pattern_mismatch":
        return f"{show(value)} has the wrong form", f"It must match {context['pattern']}"
    problem, remedy = context.get("problem", f"{error['msg']}, got {show(value)}"), context.get("remedy", "")
    return problem, remedy[:1].upper() + remedy[1:]


def config_error(model: type[BaseModel], error: ValidationError) -> ConfigError:
    """The first error with full path, value and remedy; the number of the others is told."""
    details = error.errors(include_url=False)
    # A misspelt key is told before the key that is missing because of it.
    first = min(details, key=lambda detail: detail["type"] != "extra_forbidden")
    problem, remedy = _describe(model, first)
    inner = first.get("ctx", {}).get("field", "")
    path = join_path([*first["loc"], *([inner] if inner else [])])
    if len(details) > 1:
        end = "" if not remedy or remedy.endswith("?") else "."
        remedy = f"{remedy}{end} (And {len(details) - 1} more)".strip()
    return ConfigError(problem, field=path, remedy=remedy)
