"""oIoU, mIoU and Pr@X of a model on a split, at the training size and at each image's own size (algorithm.md 1.7).

Batches are formed globally, by index, and whole batches are dealt to the ranks: every pair is computed in the same
batch on any number of processes, and the figures, sums of integers, are the same to the last digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semires_trainer.data.datasets import EvalDataset
from semires_trainer.data.loader import load_batches
from semires_trainer.metrics import Metrics, intersection_union, metrics_of
from semires_trainer.models.lavt import LAVT
from semires_trainer.refine.losses import pseudo_label
from semires_trainer.signals import StopFlag, StopRequested
from semires_trainer.steps import Compute, text_of
from semires_trainer.telemetry import Reporter


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Figures of one model on one split."""

    square: Metrics
    """At S x S, prediction and nearest-resized ground truth: the paper's figures."""
    original: Metrics
    """At each image's own size: logits resized bilinearly, ground truth untouched."""


@dataclass(frozen=True, kw_only=True)
class DealtBatches:
    """A batch sampler: fixed batches of consecutive indices, every `size`-th of them for this rank."""

    num_items: int
    batch_size: int
    rank: int
    size: int

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(self.rank * self.batch_size, self.num_items, self.size * self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.num_items)))

    def __len__(self) -> int:
        batches = -(-self.num_items // self.batch_size)
        return -(-(batches - self.rank) // self.size)


@torch.no_grad()
def evaluate(
    model: LAVT,
    dataset: EvalDataset,
    compute: Compute,
    reporter: Reporter,
    *,
    batch_size: int,
    workers: int,
    stop: StopFlag | None = None,
) -> Evaluation:
    """Evaluate `model` on every (expression, mask) pair of `dataset`; restores its training mode.

    Raises StopRequested on all ranks if `stop` was set on one: an evaluation is repeated, not resumed.
    """
    world, stop = compute.world, stop or StopFlag()
    batches = DealtBatches(num_items=len(dataset), batch_size=batch_size, rank=world.rank, size=world.size)
    loaded = load_batches(dataset, batches, workers=workers)
    counts = torch.zeros((len(dataset), 4), dtype=torch.int64, device=world.device)
    was_training = model.training
    model.eval()
    with reporter.stage("evaluate", len(batches), unit="batch", samples_per_unit=batch_size):
        for indices, batch in zip(batches, loaded, strict=True):
            if stop.is_set:
                break
            counts[indices] = count_batch(model, batch, compute)
            reporter.advance()
    model.train(was_training)
    if world.any(stop.is_set):
        raise StopRequested(stop.exit_code, "The evaluation was cut short; start again to repeat it.")
    square_i, square_u, original_i, original_u = world.sum(counts).cpu().T.tolist()
    return Evaluation(square=metrics_of(square_i, square_u), original=metrics_of(original_i, original_u))


def count_batch(model: LAVT, batch: dict[str, Any], compute: Compute) -> Tensor:
    """Intersection and union of each pair at S x S and at the original size: int64 (B, 4)."""
    moved = compute.moved(batch)
    with compute.autocast():
        logits = model(compute.image(moved["image"]), *text_of(moved))
    square = torch.stack(intersection_union(pseudo_label(logits), moved["mask"] != 0), dim=1)
    original = torch.stack(
        [
            count_original(one[None], truth.to(compute.world.device))
            for one, truth in zip(logits, batch["original_mask"], strict=True)
        ]
    )
    return torch.cat([square, original], dim=1)


def count_original(logits_12HW: Tensor, truth_HW: Tensor) -> Tensor:
    """Intersection and union of one pair at the image's own size: int64 (2,)."""
    resized = F.interpolate(logits_12HW.float(), size=tuple(truth_HW.shape), mode="bilinear", align_corners=False)
    intersection, union = intersection_union(pseudo_label(resized), truth_HW[None] != 0)
    return torch.cat([intersection, union])
