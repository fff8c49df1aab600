"""Masks as COCO run lengths: the one form in which proposals are stored, compared and handed on.

Shapes: P proposals, H image height, W image width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from semires_trainer.errors import DataError

BoolMask = NDArray[np.bool_]

_MAX_CHARACTERS = 7
"""Of a compressed number: 35 bits, more than any image has pixels."""


class Rle(TypedDict):
    """COCO's compressed run-length encoding: column-major runs, first run is background."""

    size: list[int]
    """[height, width] in pixels."""
    counts: bytes
    """Run lengths in COCO's compressed ASCII form."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """One class-agnostic mask of an image, with the generator's own opinion of it."""

    rle: Rle
    predicted_iou: float = 1.0
    """The generator's estimate of the mask's IoU, in [0, 1]; 1 where it has none."""
    stability: float = 1.0
    """Stability of the mask under another cut-off, in [0, 1]; 1 where the generator has none."""

    @classmethod
    def from_mask(cls, mask_HW: BoolMask, *, predicted_iou: float = 1.0, stability: float = 1.0) -> Proposal:
        """Wrap a boolean mask (H, W)."""
        return cls(rle=encode_mask(mask_HW), predicted_iou=predicted_iou, stability=stability)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageProposals:
    """All proposals of one image, at its own size."""

    height: int
    width: int
    rles: tuple[Rle, ...]
    boxes_P4: NDArray[np.int32]
    """x, y, width, height in pixels."""
    areas_P: NDArray[np.int64]
    """Pixels."""
    scores_P2: NDArray[np.float32]
    """predicted_iou, stability."""

    def __len__(self) -> int:
        return len(self.rles)

    def masks_PHW(self) -> BoolMask:
        """Decode every mask: (P, H, W) bool. Costs P * H * W bytes."""
        return decode_masks(self.rles, height=self.height, width=self.width)


def sha256_of(content: bytes) -> str:
    """Hexadecimal sha256 of the bytes of an image file: the key of its record in a proposal store."""
    return hashlib.sha256(content).hexdigest()


def encode_mask(mask_HW: BoolMask) -> Rle:
    """Encode a boolean mask (H, W)."""
    encoded: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask_HW, dtype=np.uint8))
    return Rle(size=[int(n) for n in encoded["size"]], counts=encoded["counts"])


def encode_runs(runs: Sequence[int], *, height: int, width: int) -> Rle:
    """Compress column-major run lengths (background first) that add up to height * width."""
    canonical = list(runs[:-1]) if len(runs) > 1 and runs[-1] == 0 else list(runs)
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": canonical}, height, width)
    return Rle(size=[height, width], counts=encoded["counts"])


def decode_masks(rles: Sequence[Rle], *, height: int, width: int) -> BoolMask:
    """Decode masks of one image to (P, H, W) bool; DataError if runs are damaged."""
    masks_PHW = np.zeros((len(rles), height, width), dtype=np.bool_)
    for mask_HW, edges in zip(masks_PHW, run_edges(rles, height=height, width=width), strict=True):
        mask_HW[:] = fill_runs(edges, height * width).reshape(width, height).T
    return masks_PHW


def run_edges(rles: Sequence[Rle], *, height: int, width: int) -> list[NDArray[np.int64]]:
    """For each mask the ascending column-major positions at which it changes, first from background to mask.

    Parsed here and not by pycocotools, which reads past its buffers when runs do not fill the image.
    DataError if a mask is of another size or its runs are damaged.
    """
    wrong = [rle["size"] for rle in rles if rle["size"] != [height, width]]
    if wrong:
        raise DataError(f"a proposal has size {wrong[0]}, its image {[height, width]} (height, width)")
    if not rles:
        return []
    numbers, cuts = _parse_numbers([rle["counts"] for rle in rles])
    edges: list[NDArray[np.int64]] = []
    for first, last in pairwise(cuts):
        runs = numbers[first:last].copy()
        runs[1::2] = runs[1::2].cumsum()  # the format: each run but the first three as difference to the
        runs[2::2] = runs[2::2].cumsum()  # one before the last
        if runs.min() < 0 or runs.sum() != height * width:
            raise _damaged_runs(f"they do not fill {width} x {height} pixels")
        edges.append(runs.cumsum()[:-1])
    return edges


def fill_runs(edges: NDArray[np.int64], length: int) -> BoolMask:
    """Pixels (length,) that change at `edges`, beginning with background."""
    runs = np.diff(edges, prepend=0, append=length)
    return np.repeat(np.arange(runs.size) % 2 == 1, runs)


def _parse_numbers(texts: Sequence[bytes]) -> tuple[NDArray[np.int64], list[int]]:
    """The numbers of several compressed strings, and where in them each string begins and the last ends.

    A number is little-endian, 5 bits a character from "0" on, bit 5 says that more follow, bit 4 of the last
    is its sign.
    """
    characters = np.frombuffer(b"".join(texts), dtype=np.uint8).astype(np.int64) - ord("0")
    ends = np.cumsum([len(text) for text in texts])
    is_last = (characters & 32) == 0
    well_formed = all(texts) and characters.min() >= 0 and characters.max() < 64 and is_last[ends - 1].all()
    stops = np.flatnonzero(is_last) + 1
    starts = np.concatenate([[0], stops[:-1]])
    lengths = stops - starts
    if not well_formed or lengths.max() > _MAX_CHARACTERS:
        raise _damaged_runs("they are not COCO's compressed form")
    position = np.arange(characters.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((characters & 31) << (5 * position), starts)
    values -= np.where(characters[stops - 1] & 16, np.int64(1) << (5 * lengths), 0)
    return values, [0, *np.cumsum(is_last)[ends - 1].tolist()]


def _damaged_runs(problem: str) -> DataError:
    return DataError(f"the runs of a proposal are damaged ({problem})")


def measure(rles: Sequence[Rle], *, height: int, width: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Boxes (P, 4) as x, y, width, height and areas (P,) of masks of one image, in pixels.

    An empty mask has an empty box. DataError as `run_edges`. (pycocotools fails on more than 255 masks.)
    """
    boxes_P4, areas_P = np.zeros((len(rles), 4), np.int32), np.zeros(len(rles), np.int64)
    for index, edges in enumerate(run_edges(rles, height=height, width=width)):
        ends = np.append(edges, height * width) if edges.size % 2 else edges
        starts, stops = ends[0::2], ends[1::2]
        starts, stops = starts[stops > starts], stops[stops > starts]
        if starts.size:
            areas_P[index] = (stops - starts).sum()
            boxes_P4[index] = _box(starts, stops - 1, height)
    return boxes_P4, areas_P


def _box(firsts: NDArray[np.int64], lasts: NDArray[np.int64], height: int) -> tuple[int, int, int, int]:
    """x, y, width, height around runs given by their first and last pixel, column-major."""
    left, right = int(firsts[0]) // height, int(lasts[-1]) // height
    top, bottom = 0, height - 1
    if (firsts // height == lasts // height).all():  # else a run goes over the end of a column
        top, bottom = int((firsts % height).min()), int((lasts % height).max())
    return left, top, right - left + 1, bottom - top + 1


def pairwise_iou(first: Sequence[Rle], second: Sequence[Rle]) -> NDArray[np.float64]:
    """IoU of each mask of `first` with each of `second`: (len(first), len(second)); empty with empty is 0.

    DataError if runs are damaged or the masks are not all of one size.
    """
    if not first or not second:
        return np.zeros((len(first), len(second)), dtype=np.float64)
    height, width = second[0]["size"]
    run_edges([*first, *second], height=height, width=width)
    iou: NDArray[np.float64] = coco_mask.iou(list(first), list(second), [0] * len(second))
    return np.nan_to_num(iou, nan=0.0)
