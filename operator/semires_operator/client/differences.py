"""What changes when a manifest is submitted again. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from semires_trainer.config import SemiRESJob


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A field that is about to change."""

    path: str
    """spec.training.epochs"""
    old: Any
    """What the cluster has, defaults included; None: nothing."""
    new: Any
    """What the manifest says, defaults included; None: nothing."""

    def __str__(self) -> str:
        return f"{self.path} ({_written(self.old)} -> {_written(self.new)})"


def differences(old: SemiRESJob, new: SemiRESJob) -> tuple[Difference, ...]:
    """Fields of `spec` in which two jobs differ, in the manifest's order; a default counts like a value given."""
    before, after = (job.spec.model_dump(mode="json", by_alias=True) for job in (old, new))
    return tuple(_differing("spec", before, after))


def _differing(path: str, old: Any, new: Any) -> Iterator[Difference]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from _differing(f"{path}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield Difference(path=path, old=old, new=new)


def _written(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping | list):
        return f"a {'mapping' if isinstance(value, Mapping) else 'list'} of {len(value)}"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
