"""Proposals without a network: the segments of Felzenszwalb and Huttenlocher (IJCV 2004) at several scales.

Each segment of each scale is one proposal, coarse scales first; a segment that repeats an earlier one (IoU
above `nms_iou`) is left out, and so is one that is the whole image, which could only flood a pseudo-label.
Large pictures are segmented at a longer side of 320 pixels and the labels enlarged: a fourth of the time for
a pixel of the boundary. Same image, same parameters: same proposals in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semires_trainer.proposals.masks import Proposal, Rle, encode_runs

MAX_SIDE = 320

Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class FelzenszwalbProposer:
    """Segments of an image at several observation levels. Picklable; uses one thread."""

    scales: tuple[float, ...] = (100.0, 200.0, 400.0, 800.0)
    """Observation levels: larger gives fewer and larger segments."""
    sigma: float = 0.8
    """Standard deviation of the Gaussian blur before segmentation, in pixels of the segmented picture."""
    min_size: int = 50
    """Smallest segment, in pixels of the segmented picture (longer side at most 320); smaller are merged."""
    nms_iou: float = 0.9
    """Segments whose IoU with an earlier one exceeds this are duplicates."""

    name = "Felzenszwalb"
    weights_sha256 = ""

    def parameters(self) -> dict[str, Any]:
        """Everything the masks depend on, as JSON values."""
        return {
            "version": 1,
            "maxSide": MAX_SIDE,
            "scales": list(self.scales),
            "sigma": self.sigma,
            "minSize": self.min_size,
            "nmsIou": self.nms_iou,
        }

    def propose(self, image_HW3: NDArray[np.uint8], keys: tuple[str, ...] = ()) -> list[Proposal]:
        """Propose masks for an RGB image (H, W, 3) uint8; `keys` are not used."""
        height, width = image_HW3.shape[:2]
        small = _shrink(image_HW3)
        levels = [self._segment(small, scale) for scale in sorted(self.scales, reverse=True)]
        chosen = _without_repetitions(levels, nms_iou=self.nms_iou)
        rows, columns = (_stretch(n, m) for n, m in zip((height, width), small.shape[:2], strict=True))
        rles: list[Rle] = []
        for labels_hw, kept in zip(levels, chosen, strict=True):
            rles += _rles_of(labels_hw[rows][:, columns], kept)
        return [Proposal(rle=rle) for rle in rles]

    def _segment(self, image_HW3: NDArray[np.uint8], scale: float) -> Labels:
        if min(image_HW3.shape[:2]) < 2:
            return np.zeros(image_HW3.shape[:2], dtype=np.int64)
        # Imported here: it takes a second, and whoever asks for the key of a store segments nothing.
        from skimage.segmentation import felzenszwalb

        labels: Labels = felzenszwalb(image_HW3, scale=scale, sigma=self.sigma, min_size=self.min_size)
        return labels


def _shrink(image_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image_HW3.shape[:2]
    if max(height, width) <= MAX_SIDE:
        return image_HW3
    factor = MAX_SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image_HW3).resize(size, Image.Resampling.BILINEAR))


def _stretch(full: int, small: int) -> NDArray[np.int64]:
    """Index of the small picture's row (or column) under the centre of each row of the full one."""
    return (2 * np.arange(full, dtype=np.int64) + 1) * small // (2 * full)


def _without_repetitions(levels: list[Labels], *, nms_iou: float) -> list[list[int]]:
    """Labels kept of each level: those that no label kept of an earlier level repeats.

    Segments of one level are disjoint, so one joint histogram of two levels holds all their intersections.
    """
    areas = [np.bincount(labels.ravel()) for labels in levels]
    kept: list[NDArray[np.bool_]] = []
    for number, (labels, area_S) in enumerate(zip(levels, areas, strict=True)):
        keep_S = area_S < labels.size
        for earlier in range(number):
            joint = levels[earlier].ravel() * len(area_S) + labels.ravel()
            pairs = areas[earlier].size * area_S.size
            inter_RS = np.bincount(joint, minlength=pairs).reshape(-1, area_S.size)
            union_RS = areas[earlier][:, None] + area_S - inter_RS
            repeats_RS = (inter_RS > nms_iou * union_RS) & kept[earlier][:, None]
            keep_S &= ~repeats_RS.any(axis=0)
        kept.append(keep_S)
    return [np.flatnonzero(keep).tolist() for keep in kept]


def _rles_of(labels_HW: Labels, kept: list[int]) -> list[Rle]:
    """Run lengths of the chosen labels, straight from the column-major label map: no dense masks."""
    height, width = labels_HW.shape
    column_major = labels_HW.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(column_major)) + 1])
    ends = np.concatenate([starts[1:], [column_major.size]])
    run_labels = column_major[starts]
    order = np.argsort(run_labels, kind="stable")
    sorted_labels = run_labels[order]
    rles: list[Rle] = []
    for label in kept:
        first, last = np.searchsorted(sorted_labels, [label, label + 1])
        chosen = order[first:last]
        edges = np.stack([starts[chosen], ends[chosen]], axis=1).ravel()
        if edges.size:
            runs = np.diff(np.concatenate([[0], edges, [column_major.size]]))
            rles.append(encode_runs(runs.tolist(), height=height, width=width))
    return rles
