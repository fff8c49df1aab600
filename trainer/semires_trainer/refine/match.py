"""Refinement of pseudo-labels by proposals: IOM (Eq. 6), CPI, CPI-U and CPI-O (Eq. 7, 8; Algorithm 1).

With c the pseudo-label and M_k a proposal of the same image, in float32:
    IOM    the proposal with the largest |c n M_k| / |c u M_k|, if above `iou`; the first of equals
    CPI-U  the union of all M_k with  s1 = |c n M_k| / (|c| + 1e-9)  above `inter1`
    CPI-O  the union of all M_k with  s2 = |c n M_k| / |M_k|         above `inter2`
    CPI    the union of all M_k with  s1 above `inter1`  or  s2 above `inter2`
A ratio equal to its threshold does not match, nor does 0/0. Where nothing matches the pseudo-label stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from semires_trainer.refine.packed import ProposalBatch, intersections, pack, popcount, unions, unpack

Strategy = Literal["CPI-U", "CPI", "CPI-O", "IOM", "None"]

_EPSILON = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Refinement:
    """What became of a batch of pseudo-labels; everything on the device of the pseudo-labels, no gradient."""

    target_BHW: Tensor
    """bool: the refined mask, or the pseudo-label itself where nothing matched."""
    matched_B: Tensor
    """bool: false leaves the sample to the PWA loss."""
    index_B: Tensor
    """int64: the proposal chosen by IOM, counted within its sample; -1 if none or another strategy."""
    selected_P: Tensor
    """bool: the proposals that make up the refined masks."""


@torch.no_grad()
def refine(
    pseudo_BHW: Tensor,
    proposals: ProposalBatch,
    *,
    strategy: Strategy,
    iou: float = 0.5,
    inter1: float = 0.7,
    inter2: float = 0.7,
) -> Refinement:
    """Replace each pseudo-label (bool) by the proposals that agree with it; "None" leaves all of them
    unmatched.

    Raises ValueError if pseudo-labels and proposals differ in number, size or device, or for an unknown
    strategy.
    """
    _check(pseudo_BHW, proposals)
    if strategy == "None" or not proposals.area_P.shape[0]:
        return _unrefined(pseudo_BHW, proposals)
    packed_BHW8 = pack(pseudo_BHW)
    shared_P = intersections(proposals, packed_BHW8)
    pseudo_area_P = popcount(packed_BHW8)[proposals.sample_index_P]
    index_B = torch.full((proposals.samples,), -1, device=pseudo_BHW.device)
    if strategy == "IOM":
        overlap_P = shared_P / (pseudo_area_P + proposals.area_P - shared_P)
        index_B, selected_P = _first_best(overlap_P, proposals, threshold=iou)
        matched_B = index_B >= 0
    else:
        covered_P = shared_P / (pseudo_area_P + _EPSILON) > inter1
        inside_P = shared_P / proposals.area_P > inter2
        selected_P = _by_integration(strategy, covered_P, inside_P)
        matched_B = _any_per_sample(selected_P, proposals)
    target_BHW = unpack(unions(proposals, selected_P, otherwise_BHW8=packed_BHW8))
    return Refinement(target_BHW=target_BHW, matched_B=matched_B, index_B=index_B, selected_P=selected_P)


def _by_integration(strategy: Strategy, covered_P: Tensor, inside_P: Tensor) -> Tensor:
    if strategy == "CPI-U":
        return covered_P
    if strategy == "CPI-O":
        return inside_P
    if strategy == "CPI":
        return covered_P | inside_P
    raise ValueError(f"refinement strategy: expected CPI-U, CPI, CPI-O, IOM or None, got {strategy!r}")


def _first_best(overlap_P: Tensor, proposals: ProposalBatch, *, threshold: float) -> tuple[Tensor, Tensor]:
    """The first proposal of each sample with the largest overlap above the threshold: its index or -1, its flag."""
    score_P = overlap_P.masked_fill(~(overlap_P > threshold), -1.0)  # NaN compares false and becomes -1
    best_B = score_P.new_full((proposals.samples,), -1.0)
    best_B.scatter_reduce_(0, proposals.sample_index_P, score_P, "amax")
    is_best_P = (score_P == best_B[proposals.sample_index_P]) & (score_P >= 0)
    position_P, none = proposals.position_P, max(proposals.counts)
    candidate_P = position_P.masked_fill(~is_best_P, none)
    first_B = candidate_P.new_full((proposals.samples,), none)
    first_B.scatter_reduce_(0, proposals.sample_index_P, candidate_P, "amin")
    selected_P = position_P == first_B[proposals.sample_index_P]
    return first_B.masked_fill(first_B == none, -1), selected_P


def _any_per_sample(selected_P: Tensor, proposals: ProposalBatch) -> Tensor:
    hits_B = torch.zeros(proposals.samples, dtype=torch.int64, device=selected_P.device)
    return hits_B.scatter_reduce_(0, proposals.sample_index_P, selected_P.to(torch.int64), "amax") > 0


def _unrefined(pseudo_BHW: Tensor, proposals: ProposalBatch) -> Refinement:
    device, samples = pseudo_BHW.device, proposals.samples
    return Refinement(
        target_BHW=pseudo_BHW,
        matched_B=torch.zeros(samples, dtype=torch.bool, device=device),
        index_B=torch.full((samples,), -1, device=device),
        selected_P=torch.zeros(proposals.area_P.shape[0], dtype=torch.bool, device=device),
    )


def _check(pseudo_BHW: Tensor, proposals: ProposalBatch) -> None:
    height, width8 = proposals.packed_PHW8.shape[1:]
    expected = (proposals.samples, height, width8 * 8)
    if pseudo_BHW.dtype != torch.bool or tuple(pseudo_BHW.shape) != expected:
        found = f"{tuple(pseudo_BHW.shape)} {pseudo_BHW.dtype}"
        raise ValueError(f"pseudo-labels: expected bool {expected} like the proposals, got {found}")
    if pseudo_BHW.device != (device := proposals.packed_PHW8.device):
        raise ValueError(f"pseudo-labels are on {pseudo_BHW.device}, their proposals on {device}")
