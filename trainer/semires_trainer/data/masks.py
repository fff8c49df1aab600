"""From outlines (polygons, COCO run lengths) to pixels, and pixels to the training size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from semires_trainer.data.records import Annotation, Polygons, Rle
from semires_trainer.errors import DataError

Mask = npt.NDArray[np.bool_]

OUTSIDE_TOLERANCE = 0.05
"""A vertex may lie outside by this share of the side (tools round); the polygon is clipped there."""


def rasterize(annotation: Annotation, height: int, width: int, *, source: str = "") -> Mask:
    """Return the (height, width) boolean mask of an annotation; overlapping polygons stay foreground.

    Raises DataError naming `source` and annotation if the outline is malformed, outside or empty.
    """
    segmentation = annotation.segmentation
    try:
        if isinstance(segmentation, Mapping):
            mask = _decode_rle(segmentation, height, width)
        else:
            check_polygons(segmentation, height, width)
            mask = _fill_polygons(segmentation, height, width)
    except ValueError as error:
        raise outline_error(annotation, str(error), source=source) from error
    if not mask.any():
        raise outline_error(annotation, "covers no pixel", source=source)
    return mask


def outline_error(annotation: Annotation, problem: str, *, source: str) -> DataError:
    """The one line a user sees about a bad outline."""
    return DataError(
        f"annotation {annotation.id} of image {annotation.image_id} in {source or 'the data set'}: {problem}",
        field="segmentation",
        remedy="Correct or remove the annotation.",
    )


def check_segmentation(segmentation: Polygons | Rle, height: int, width: int) -> None:
    """Raise ValueError if the outline can't be rasterised into height x width; cheap, fills no pixel."""
    if isinstance(segmentation, Mapping):
        _run_lengths(segmentation, height, width)
    else:
        check_polygons(segmentation, height, width)


def check_polygons(polygons: Polygons, height: int, width: int) -> None:
    """Raise ValueError unless each polygon has 3 or more finite vertices in the image (5 % may stick out)."""
    if len(polygons) == 0:
        raise ValueError("no polygon")
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon needs x, y of at least 3 vertices, got {len(polygon)} numbers")
        xs, ys = polygon[0::2], polygon[1::2]
        if not all(map(math.isfinite, polygon)):
            raise ValueError("a vertex is not a finite number")
        _check_extent(xs, width, axis="x", image=f"{width} x {height}")
        _check_extent(ys, height, axis="y", image=f"{width} x {height}")


def resize_mask_nearest(mask: Mask, size: int) -> Mask:
    """Resize (H, W) to (size, size) as the official code resizes ground truth: PIL NEAREST, centre rule."""
    if mask.shape == (size, size):
        return mask
    picture = Image.fromarray(mask.view(np.uint8))
    return np.asarray(picture.resize((size, size), Image.Resampling.NEAREST)).view(np.bool_)


def encode_rle(mask: Mask) -> dict[str, Any]:
    """COCO RLE of a (H, W) mask with `counts` as text, as JSON stores it."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _check_extent(values: Sequence[float], side: int, *, axis: str, image: str) -> None:
    low, high = min(values), max(values)
    slack = OUTSIDE_TOLERANCE * side
    if high <= 0 or low >= side or low < -slack or high > side + slack:
        raise ValueError(f"lies outside the image of {image} pixels ({axis} from {low:g} to {high:g})")


def _fill_polygons(polygons: Polygons, height: int, width: int) -> Mask:
    rles = coco_mask.frPyObjects([list(polygon) for polygon in polygons], height, width)
    return _decode_rle(coco_mask.merge(rles), height, width)


def _decode_rle(rle: Rle, height: int, width: int) -> Mask:
    """Fill the runs (pycocotools' own decode reads past its buffer when they are shorter than the image)."""
    runs = _run_lengths(rle, height, width)
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def _run_lengths(rle: Rle, height: int, width: int) -> npt.NDArray[np.int64]:
    """Column-major runs, background first, which fill the image exactly."""
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, Sequence) or list(size) != [height, width]:
        raise ValueError(f"RLE of size {size!r} in an image of [height, width] = [{height}, {width}]")
    if isinstance(counts, str | bytes):
        runs = _parse_compressed(counts if isinstance(counts, bytes) else counts.encode("latin1", "replace"))
    elif isinstance(counts, Sequence) and all(isinstance(run, int) and run >= 0 for run in counts):
        runs = list(counts)
    else:
        raise ValueError("RLE counts must be text or a list of non-negative integers")
    if min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise ValueError(f"RLE runs cover {sum(runs)} pixels, the image has {height * width}")
    return np.asarray(runs, dtype=np.int64)


def _parse_compressed(text: bytes) -> list[int]:
    """COCO's text: 5 bits a character from '0', bit 5: more follow; from the fourth run on, differences."""
    runs: list[int] = []
    value = shift = 0
    for byte in text:
        bits = byte - 48
        if not 0 <= bits < 64 or shift > 50:
            raise ValueError("RLE counts hold a character that COCO's run-length text does not use")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("RLE counts end in the middle of a number")
    return runs
