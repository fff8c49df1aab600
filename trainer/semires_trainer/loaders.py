"""Batches of a run: micro-batches of this rank from any step on, and the pairs of an evaluation split."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from semires_trainer.config import Resolved, ResolvedTraining
from semires_trainer.data.bad_images import BadImages
from semires_trainer.data.datasets import (
    EvalDataset,
    Inputs,
    LabeledDataset,
    UnlabeledDataset,
    evaluation_pairs,
)
from semires_trainer.data.loader import load_batches
from semires_trainer.data.pictures import PictureLoader
from semires_trainer.data.sampling import AddressSampler, EndlessStream, EpochStream, Stream
from semires_trainer.data.transforms import Augmentation
from semires_trainer.distributed import World
from semires_trainer.materials import Materials
from semires_trainer.proposals.packed_cache import PackedCache
from semires_trainer.refine.packed import ProposalBatch
from semires_trainer.schedule import BatchPlan
from semires_trainer.spec.training import ModelSelection

Batch = dict[str, Any]
T = TypeVar("T")

PICTURE_CACHE_BYTES = 1 << 30
"""Decoded pictures each process may keep: 1 GiB is 1,500 pictures of 480 x 480."""


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """Makes the batches of one process."""

    resolved: Resolved
    materials: Materials
    world: World
    workers: int
    bad_images: BadImages | None = None
    """The known bad images of this node, which training replaces; None: each is an error."""

    @functools.cached_property
    def inputs(self) -> Inputs:
        """What every data set reads from; one picture cache for all."""
        pictures = PictureLoader(
            self.materials.images, size=self.resolved.model.image_size, cache_bytes=PICTURE_CACHE_BYTES
        )
        return Inputs(
            dataset=self.materials.dataset,
            pictures=pictures,
            tokenizer=self.materials.tokenizer,
            bad_images=self.bad_images,
        )

    def burn_in(self, plan: BatchPlan, start: int, end: int) -> Iterator[list[Batch]]:
        """Labelled micro-batches of this rank for the steps start .. end - 1."""
        training = self.resolved.training
        augmented = augmentation_of(training) if training.burn_in_augmentation != "None" else None
        refs = self.materials.labeled
        dataset = LabeledDataset(
            inputs=self.inputs, refs=refs, seed=training.seed, stream="burn-in", augmentation=augmented
        )
        stream = EndlessStream(size=len(refs), batch=training.burn_in_batch, seed=training.seed, name="burn-in")
        yield from grouped(self._batches(dataset, stream, start, end, micro_batch=plan.labeled), plan.accumulation)

    def mutual(self, plan: BatchPlan, cache: PackedCache, start: int, end: int) -> Iterator[list[tuple[Batch, Batch]]]:
        """(labelled, unlabelled) micro-batches of this rank for the steps start .. end - 1."""
        training = self.resolved.training
        labeled, unlabeled = self.materials.labeled, self.materials.unlabeled
        both = zip(
            self._batches(
                LabeledDataset(inputs=self.inputs, refs=labeled, seed=training.seed, proposals=cache),
                EndlessStream(size=len(labeled), batch=training.batch_labeled, seed=training.seed, name="labeled"),
                start,
                end,
                micro_batch=plan.labeled,
            ),
            self._batches(
                UnlabeledDataset(
                    inputs=self.inputs,
                    refs=unlabeled,
                    seed=training.seed,
                    augmentation=augmentation_of(training),
                    proposals=cache,
                ),
                EpochStream(size=len(unlabeled), batch=training.batch_unlabeled, seed=training.seed, name="unlabeled"),
                start,
                end,
                micro_batch=plan.unlabeled,
            ),
            strict=True,
        )
        yield from grouped(both, plan.accumulation)

    def evaluation(self, split: str, *, mode: ModelSelection = "AllExpressions") -> EvalDataset:
        """All (ref, expression) pairs of a split, or one expression per ref (OfficialCPI's model selection)."""
        refs = self.materials.dataset.refs_of(split)
        seed = self.resolved.training.seed
        return EvalDataset(inputs=self.inputs, refs=refs, pairs=evaluation_pairs(refs, mode=mode, seed=seed))

    def _batches(self, dataset: Any, stream: Stream, start: int, end: int, *, micro_batch: int) -> Iterator[Batch]:
        sampler = AddressSampler(
            stream=stream,
            start_step=start,
            end_step=end,
            rank=self.world.rank,
            world_size=self.world.size,
            micro_batch=micro_batch,
        )
        return load_batches(
            dataset,
            sampler,
            workers=self.workers,
            pin_memory=self.world.device.type == "cuda",
            stack_proposals=ProposalBatch.stack,
        )


def grouped(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Consecutive items in lists of `size`: the micro-batches of a step."""
    while group := list(islice(items, size)):
        yield group


def augmentation_of(training: ResolvedTraining) -> Augmentation:
    """How unlabelled pictures are varied, from the manifest."""
    return Augmentation(
        blur_probability=training.blur_probability,
        jitter_probability=training.jitter_probability,
        jitter_brightness=training.jitter_brightness,
        jitter_contrast=training.jitter_contrast,
        jitter_saturation=training.jitter_saturation,
        jitter_hue=training.jitter_hue,
        strong_normalization=training.strong_normalization,
    )
