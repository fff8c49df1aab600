"""How good the proposals could be at best: the upper limit of what refinement can reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from semires_trainer.errors import DataError
from semires_trainer.proposals.masks import BoolMask, ImageProposals, encode_mask, pairwise_iou
from semires_trainer.proposals.store import ProposalStore


@dataclass(frozen=True, kw_only=True, slots=True)
class OracleReport:
    """Best proposal of each object, over the objects of the images that have proposals."""

    refs: int
    """Objects compared."""
    mean_iou: float
    """Mean IoU of the best proposal with the object's mask, in [0, 1]; 0 without objects."""
    above_half: float
    """Share of objects with a proposal of IoU above 0.5, in [0, 1]."""


def best_iou(proposals: ImageProposals, mask_HW: BoolMask) -> float:
    """Largest IoU of any proposal with a mask (H, W) of the image's own size; 0 without proposals."""
    if mask_HW.shape != (proposals.height, proposals.width):
        expected = (proposals.height, proposals.width)
        raise DataError(f"a mask has size {mask_HW.shape}, the proposals of its image {expected}")
    ious = pairwise_iou(proposals.rles, [encode_mask(mask_HW)])
    return float(ious.max(initial=0.0))


def oracle_best_iou(refs: Iterable[tuple[str, BoolMask]], store: ProposalStore) -> OracleReport:
    """Compare objects, given as (sha256 of the image, mask (H, W)), with their image's proposals.

    Images without a record are left out: `refs` of the report says how many objects were compared.
    """
    ious = [best_iou(store.get(image), mask_HW) for image, mask_HW in refs if store.contains(image)]
    count = max(len(ious), 1)
    above_half = sum(iou > 0.5 for iou in ious)
    return OracleReport(refs=len(ious), mean_iou=sum(ious) / count, above_half=above_half / count)
