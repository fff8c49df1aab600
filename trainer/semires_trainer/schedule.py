"""Batch arithmetic: from the global batch of the manifest to steps, and to micro-batches of one process."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from typing import Literal

from semires_trainer.config import ResolvedTraining
from semires_trainer.errors import ConfigError

StageName = Literal["burn-in", "train"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """How one process works through its share of a global batch."""

    accumulation: int
    """Micro-batches per optimizer step."""
    labeled: int
    """Labelled images per micro-batch."""
    unlabeled: int
    """Unlabelled images per micro-batch; 0 during burn-in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageLength:
    """Optimizer steps of a stage."""

    steps_per_epoch: int
    epochs: int

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.steps_per_epoch * self.epochs


def burn_in_batches(training: ResolvedTraining, *, processes: int) -> BatchPlan:
    """Micro-batches of burn-in."""
    share = _share(training.burn_in_batch, processes, field="spec.training.burnInBatch")
    accumulation = _accumulation(share, 0, limit=training.micro_batch)
    return BatchPlan(accumulation=accumulation, labeled=share // accumulation, unlabeled=0)


def mutual_batches(training: ResolvedTraining, *, processes: int) -> BatchPlan:
    """Micro-batches of mutual learning: labelled and unlabelled images in the proportion of the global batch."""
    labeled = _share(training.batch_labeled, processes, field="spec.training.batch.labeled")
    unlabeled = _share(training.batch_unlabeled, processes, field="spec.training.batch.unlabeled")
    accumulation = _accumulation(labeled, unlabeled, limit=training.micro_batch)
    return BatchPlan(accumulation=accumulation, labeled=labeled // accumulation, unlabeled=unlabeled // accumulation)


def check_batches(training: ResolvedTraining, *, processes: int) -> None:
    """ConfigError if the global batches cannot be dealt to the processes: found before any work is done."""
    burn_in_batches(training, processes=processes)
    mutual_batches(training, processes=processes)


def images_per_pass(training: ResolvedTraining, stage: StageName, *, processes: int) -> int:
    """Images of one forward pass of a stage: what `microBatch` limits."""
    batches = burn_in_batches if stage == "burn-in" else mutual_batches
    plan = batches(training, processes=processes)
    return plan.labeled + plan.unlabeled


def smaller_micro_batch(training: ResolvedTraining, stage: StageName, *, processes: int) -> int | None:
    """The `microBatch` with half the images per pass of `stage`, or the next fewer, that both stages can keep.

    None if there is none: a pass takes one image already, or as few as the proportion of labelled and unlabelled
    images allows.
    """
    used, options = images_per_pass(training, stage, processes=processes), []
    for limit in range(1, used):
        limited = replace(training, micro_batch=limit)
        with contextlib.suppress(ConfigError):  # too small for equal parts of one of the stages
            check_batches(limited, processes=processes)
            options.append((images_per_pass(limited, stage, processes=processes), -limit))
    halved = [option for option in options if option[0] <= used / 2]
    return -max(halved)[1] if halved else None


def burn_in_length(training: ResolvedTraining, *, num_labeled: int) -> StageLength:
    """An epoch of burn-in is one pass over the labelled refs."""
    return StageLength(steps_per_epoch=max(1, num_labeled // training.burn_in_batch), epochs=training.burn_in_epochs)


def mutual_length(training: ResolvedTraining, *, num_unlabeled: int) -> StageLength:
    """An epoch of mutual learning is one pass over the unlabelled refs; the labelled ones repeat (algorithm.md 1.5)."""
    epochs = training.epochs if num_unlabeled else 0
    return StageLength(steps_per_epoch=max(1, num_unlabeled // training.batch_unlabeled), epochs=epochs)


def _share(batch: int, processes: int, *, field: str) -> int:
    if batch % processes:
        raise ConfigError(
            f"a global batch of {batch} cannot be dealt evenly to {processes} processes",
            field=field,
            remedy=f"Use a multiple of {processes}, or another number of processes",
        )
    return batch // processes


def _accumulation(labeled: int, unlabeled: int, *, limit: int | None) -> int:
    """The smallest number of equal micro-batches that keeps each within `limit` images."""
    if limit is None:
        return 1
    common = math.gcd(labeled, unlabeled) if unlabeled else labeled
    for pieces in range(1, common + 1):
        if common % pieces == 0 and (labeled + unlabeled) // pieces <= limit:
            return pieces
    raise ConfigError(
        f"{labeled} labelled and {unlabeled} unlabelled images per process cannot be cut into equal micro-batches of "
        f"at most {limit}",
        field="spec.training.microBatch",
        remedy=f"Use at least {(labeled + unlabeled) // common}",
    )
