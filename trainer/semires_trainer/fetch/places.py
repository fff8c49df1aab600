"""Where the inputs of a job lie on this node, and the configuration that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from semires_trainer.config import Resolved

Section = TypeVar("Section")

_ATTRIBUTES: Mapping[str, Sequence[str]] = {
    "spec.dataset.annotations": ("dataset", "annotations"),
    "spec.dataset.images": ("dataset", "images"),
    "spec.dataset.labeled.imageIdsFile": ("dataset", "labeled_image_ids_file"),
    "spec.model.initFrom": ("model", "init_from"),
    "spec.model.swin": ("model", "swin"),
    "spec.model.bert": ("model", "bert"),
    "spec.model.vocab": ("model", "vocab"),
    "spec.proposals.sam.weights": ("proposals", "sam", "weights"),
    "spec.proposals.precomputed.path": ("proposals", "precomputed", "path"),
}
"""Manifest field -> where `Resolved` holds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """The inputs of a job on this node."""

    paths: Mapping[str, str]
    """Manifest field -> local path. By field, as one URI may hold annotations and images. hf:// stays."""
    fetched_files: int = 0
    fetched_bytes: int = 0
    """Bytes that were transferred; of an archive more or less than what lies here now."""
    found_files: int = 0
    """Files that an earlier fetch had left."""
    found_bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Places:
        """What `as_json` gave."""
        return cls(**values)


def localize(resolved: Resolved, places: Places) -> Resolved:
    """`resolved`, reading its inputs from `places`."""
    for field, path in places.paths.items():
        resolved = _with(resolved, _ATTRIBUTES[field], path)
    return resolved


def _with(section: Section, attributes: Sequence[str], value: str) -> Section:
    first, *rest = attributes
    inner = _with(getattr(section, first), rest, value) if rest else value
    return replace(section, **{first: inner})  # type: ignore[type-var]  # a dataclass, as all sections are
