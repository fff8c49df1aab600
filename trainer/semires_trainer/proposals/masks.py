"""Masks as COCO run lengths: the one form in which proposals are stored, compared and handed on.

Shapes: P proposals, H image height, W image width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from semires_trainer.errors import DataError

BoolMask = NDArray[np.bool_]


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
    """Decode masks of one image to (P, H, W) bool; DataError if the runs do not fill the image exactly."""
    if not rles:
        return np.zeros((0, height, width), dtype=np.bool_)
    masks_PWH = decode_transposed(rles, height=height, width=width)
    return masks_PWH.transpose(0, 2, 1).astype(np.bool_, order="C")


def decode_transposed(rles: Sequence[Rle], *, height: int, width: int) -> NDArray[np.uint8]:
    """Decode to (P, W, H) uint8 in pycocotools' own memory order, so without a copy."""
    try:
        masks_HWP: NDArray[np.uint8] = coco_mask.decode(list(rles))
    except ValueError as error:
        raise DataError(f"a proposal of an image of {width}x{height} pixels is damaged ({error})") from error
    if masks_HWP.shape[:2] != (height, width):
        raise DataError(f"a proposal has size {masks_HWP.shape[:2]}, its image ({height}, {width})")
    return masks_HWP.transpose(2, 1, 0)


def measure(proposals: Sequence[Proposal]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Boxes (P, 4) as x, y, width, height and areas (P,), in pixels, read off the runs."""
    rles = [proposal.rle for proposal in proposals]
    if not rles:
        return np.zeros((0, 4), np.int32), np.zeros((0,), np.int64)
    return coco_mask.toBbox(rles).astype(np.int32), np.asarray(coco_mask.area(rles), dtype=np.int64)


def pairwise_iou(first: Sequence[Rle], second: Sequence[Rle]) -> NDArray[np.float64]:
    """IoU of each mask of `first` with each of `second`: (len(first), len(second)); empty with empty is 0."""
    if not first or not second:
        return np.zeros((len(first), len(second)), dtype=np.float64)
    iou: NDArray[np.float64] = coco_mask.iou(list(first), list(second), [0] * len(second))
    return np.nan_to_num(iou, nan=0.0)
