"""Segmentation metrics as the paper and LAVT count them: overall IoU, mean IoU, precision at IoU thresholds.

Every pair of masks becomes two integers, intersection and union; all figures follow from these exactly, in
any order and on any number of processes. An IoU equal to a threshold counts; the IoU of two empty masks is 0
and counts in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TENTHS = (5, 6, 7, 8, 9)
"""Thresholds of Pr@X in tenths: integers, because 0.7 and 0.9 are not floating-point numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """Percentages in [0, 100] over `pairs` (expression, mask) pairs."""

    pairs: int
    overall_iou: float
    """oIoU: sum of intersections / sum of unions."""
    mean_iou: float
    """mIoU: mean of intersection / union."""
    precision: tuple[float, ...]
    """Pr@0.5, 0.6, 0.7, 0.8 and 0.9: share of the pairs with IoU at or above it."""

    def to_dict(self) -> dict[str, float]:
        """Names of the paper to percentages, in the order of its tables."""
        precision = {f"Pr@0.{tenth}": value for tenth, value in zip(TENTHS, self.precision, strict=True)}
        return {"oIoU": self.overall_iou, "mIoU": self.mean_iou, **precision}


def intersection_union(prediction_BHW: Tensor, truth_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels in both and pixels in either of each pair of boolean masks: two int64 (B,), on their device."""
    kinds = [(tuple(mask.shape), mask.dtype) for mask in (prediction_BHW, truth_BHW)]
    if kinds[0] != kinds[1] or prediction_BHW.dtype != torch.bool:
        raise ValueError(f"metrics compare boolean masks of one shape, got {kinds[0]} and {kinds[1]}")
    intersection_B = (prediction_BHW & truth_BHW).sum(dim=(1, 2))
    areas_B = prediction_BHW.sum(dim=(1, 2)) + truth_BHW.sum(dim=(1, 2))
    return intersection_B, areas_B - intersection_B


def metrics_of(intersections: Sequence[int], unions: Sequence[int]) -> Metrics:
    """Metrics of all pairs of a split, given as plain integers. Raises ValueError for no pair at all."""
    if not intersections:
        raise ValueError("metrics of 0 pairs are undefined: the split has no expression")
    pairs = list(zip(intersections, unions, strict=True))
    count = len(pairs)
    hits = [sum(union > 0 and 10 * shared >= tenth * union for shared, union in pairs) for tenth in TENTHS]
    # fsum is exact before its one rounding, so the mean does not depend on the order of the pairs
    mean = math.fsum(shared / union for shared, union in pairs if union) / count
    return Metrics(
        pairs=count,
        overall_iou=100 * sum(intersections) / max(sum(unions), 1),
        mean_iou=100 * mean,
        precision=tuple(100 * hit / count for hit in hits),
    )
