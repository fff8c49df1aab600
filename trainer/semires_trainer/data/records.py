"""What a data set is, whatever files it came from: pictures, outlines, sentences that refer to objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from semires_trainer.errors import DataError

Polygons: TypeAlias = Sequence[Sequence[float]]
Rle: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One picture."""

    id: int
    file_name: str
    """Relative to the images folder or zip."""
    height: int
    """Pixels, as the annotation file says; the decoded picture must agree."""
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """The outline of one object."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    """x, y, width, height in pixels."""
    segmentation: Polygons | Rle
    """Polygons [[x, y, x, y, ...], ...] in pixels, or COCO RLE {"size": [H, W], "counts": text or list}."""
    iscrowd: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Ref:
    """One object that people referred to, with everything they called it."""

    ref_id: int
    annotation_id: int
    image_id: int
    split: str
    category: str
    expressions: tuple[str, ...]
    """Cleaned sentences (REFER's `sent`): what training reads. At least one, none empty."""
    raw: tuple[str, ...]
    """The same sentences as typed (REFER's `raw`): what the official evaluation reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Refs with the images and annotations they need; joins are checked when it is loaded."""

    name: str
    images: Mapping[int, ImageRecord]
    annotations: Mapping[int, Annotation]
    refs: tuple[Ref, ...]
    source: str = ""
    """The annotation file, for messages."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in order of first appearance."""
        return tuple(dict.fromkeys(ref.split for ref in self.refs))

    def refs_of(self, split: str) -> tuple[Ref, ...]:
        """Refs of one split, in file order, by REFER's rule (`in_split`); DataError if there are none."""
        chosen = tuple(ref for ref in self.refs if in_split(ref.split, split))
        if not chosen:
            raise DataError(
                f"data set {self.name} ({self.source or 'in memory'}) has no split {split!r}",
                field="spec.dataset.evaluate" if split != "train" else "spec.dataset.annotations",
                remedy=f"Its splits are {', '.join(self.splits) or 'none: it has no refs'}.",
            )
        return chosen


def in_split(split: str, wanted: str) -> bool:
    """REFER's rule: 'test' is every split containing 'test'; 'testA' each such split with an A ('testAB')."""
    if wanted == "test":
        return "test" in split
    if wanted in {"testA", "testB", "testC"}:
        return "test" in split and wanted[-1] in split
    return split == wanted
