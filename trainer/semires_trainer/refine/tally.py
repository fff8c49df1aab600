"""What refinement did, counted: integers that add up over micro-batches, steps and ranks.

Helped and hurt compare the IoU with the truth before and after refinement (the paper's Figure 6), on samples
whose truth is known, such as labelled images that are passed through the refinement for the statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semires_trainer.refine.match import Refinement


@dataclass(frozen=True, kw_only=True, slots=True)
class RefinementTally:
    """Counts of one or many steps; the shares are fractions in [0, 1], 0 where nothing was counted."""

    samples: int = 0
    matched: int = 0
    """Samples refined by IOM or CPI; the rest is left to the PWA loss."""
    selected: int = 0
    """Proposals that make up the refined masks."""
    known: int = 0
    """Samples compared with their truth."""
    helped: int = 0
    """Of these, refined samples whose IoU with the truth rose."""
    hurt: int = 0
    """Of these, refined samples whose IoU with the truth fell."""

    @classmethod
    def of(cls, counts: Tensor) -> RefinementTally:
        """Read the counts of `count` (this waits for the device)."""
        samples, matched, selected, known, helped, hurt = (int(value) for value in counts.tolist())
        return cls(samples=samples, matched=matched, selected=selected, known=known, helped=helped, hurt=hurt)

    @property
    def matched_share(self) -> float:
        """Share of the samples that the strategy (IOM, CPI, CPI-U, CPI-O) refined."""
        return _share(self.matched, self.samples)

    @property
    def pwa_share(self) -> float:
        """Share of the samples that kept their pseudo-label."""
        return _share(self.samples - self.matched, self.samples)

    @property
    def mean_selected(self) -> float:
        """Proposals in the refined mask of a matched sample, on average."""
        return _share(self.selected, self.matched)

    @property
    def helped_share(self) -> float:
        """Share of the samples with known truth that refinement brought nearer to it."""
        return _share(self.helped, self.known)

    @property
    def hurt_share(self) -> float:
        """Share of the samples with known truth that refinement took further from it."""
        return _share(self.hurt, self.known)


@torch.no_grad()
def count(refinement: Refinement, *, pseudo_BHW: Tensor, truth_BHW: Tensor | None = None) -> Tensor:
    """Counts in the order of `RefinementTally`, int64 (6,), on the device: add them up, read them rarely."""
    matched_B = refinement.matched_B
    counts = [torch.full_like(matched_B, True).sum(), matched_B.sum(), refinement.selected_P.sum()]
    if truth_BHW is None:
        return torch.stack([*counts, *torch.zeros_like(torch.stack(counts))])
    change_B = _iou_change(refinement.target_BHW, pseudo_BHW, truth_BHW)
    return torch.stack([*counts, counts[0], (change_B > 0).sum(), (change_B < 0).sum()])


def _iou_change(refined_BHW: Tensor, pseudo_BHW: Tensor, truth_BHW: Tensor) -> Tensor:
    """Sign of IoU(refined) - IoU(pseudo) by exact cross-multiplication, int64 (B,); 0 / 0 counts as 0."""
    (refined_i, refined_u), (pseudo_i, pseudo_u) = (
        ((mask & truth_BHW).sum(dim=(1, 2)), (mask | truth_BHW).sum(dim=(1, 2)).clamp(min=1))
        for mask in (refined_BHW, pseudo_BHW)
    )
    return torch.sign(refined_i * pseudo_u - pseudo_i * refined_u)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
