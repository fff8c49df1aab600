"""Typed reading of decoded JSON and pickles: a wrong field is an error naming file, record and field."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from semires_trainer.errors import DataError

Kept = TypeVar("Kept")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One dictionary of a file together with how a user would name it."""

    source: Path
    kind: str
    """What it is: image, annotation, ref, category."""
    name: str
    """Its id if it has one, else its place in the list."""
    values: Mapping[str, Any]

    def error(self, field: str, problem: str, *, remedy: str = "") -> DataError:
        """A DataError about one field of this record."""
        return DataError(f"{self.kind} {self.name} in {self.source}: {problem}", field=field, remedy=remedy)

    def integer(self, field: str) -> int:
        """An int (a bool is none); a float that is whole counts, as some annotation tools write 12.0."""
        value = self._get(field)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(field, f"must be an integer, got {_shown(value)}")
        return value

    def text(self, field: str) -> str:
        """A string, not empty."""
        value = self._get(field)
        if not isinstance(value, str) or not value:
            raise self.error(field, f"must be a non-empty string, got {_shown(value)}")
        return value

    def items(self, field: str) -> list[Any]:
        """A list."""
        value = self._get(field)
        if not isinstance(value, list | tuple):
            raise self.error(field, f"must be a list, got {_shown(value)}")
        return list(value)

    def _get(self, field: str) -> Any:
        if field not in self.values:
            raise self.error(field, "is missing")
        return self.values[field]


def records_of(values: Any, *, source: Path, kind: str, id_field: str) -> list[Record]:
    """Wrap a list of dictionaries; DataError if it is something else."""
    if not isinstance(values, list):
        raise DataError(f"{source} must hold a list of {kind}s, got {_shown(values)}", field=f"{kind}s")
    for place, value in enumerate(values):
        if not isinstance(value, dict):
            raise DataError(
                f"{source}: {kind} at position {place} must be an object, got {_shown(value)}",
                field=f"{kind}s",
            )
    return [
        Record(source=source, kind=kind, name=str(value.get(id_field, f"at position {place}")), values=value)
        for place, value in enumerate(values)
    ]


def read_json(path: Path, *, field: str) -> Any:
    """Decode a JSON file; DataError naming the manifest `field` and what is wrong."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{path} can't be read: {error.strerror}", field=field, remedy="Give an existing file."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid JSON: {error}", field=field, remedy="Write it again.") from error


def unique(entries: Iterable[tuple[Record, int, Kept]], *, field: str) -> dict[int, Kept]:
    """Index parsed records by id; a repeated id is a DataError."""
    found: dict[int, Kept] = {}
    for record, key, value in entries:
        if key in found:
            raise record.error(field, f"{record.kind} id {key} is used twice", remedy="Ids must be unique.")
        found[key] = value
    return found


def _shown(value: Any) -> str:
    """A value as it may stand in a one-line message; reprlib keeps hostile nesting short."""
    return f"{type(value).__name__} {reprlib.repr(value)}"
