"""What one optimizer step computes: burn-in (algorithm.md 1.2) and mutual learning (1.3, Algorithm 1 of the paper).

Losses are divided by the numbers of the *global* batch, so the sum over micro-batches and ranks is the loss of the
whole batch; gradients are averaged over ranks, hence the factor `world.size` before each backward.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from semires_trainer.config import ResolvedRefinement, ResolvedTraining
from semires_trainer.data.transforms import normalize
from semires_trainer.distributed import World, average_gradients, data_parallel
from semires_trainer.models.lavt import LAVT
from semires_trainer.refine.losses import (
    PixelWeighting,
    burn_in_loss,
    class_weight_sum,
    foreground_probability,
    image_weights,
    pseudo_label,
    supervised_loss,
    unsupervised_loss,
)
from semires_trainer.refine.match import Refinement, refine
from semires_trainer.refine.packed import ProposalBatch
from semires_trainer.refine.tally import count
from semires_trainer.teacher import EmaTeacher

Batch = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and how precisely the networks run."""

    world: World
    bf16: bool
    channels_last: bool

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 matrix products and convolutions, fp32 weights; nothing in full precision."""
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def moved(self, batch: Batch) -> dict[str, Any]:
        """The batch on the device; copies overlap with computation where the batch is pinned."""
        return {
            key: value.to(self.world.device, non_blocking=True) if isinstance(value, Tensor | ProposalBatch) else value
            for key, value in batch.items()
        }

    def image(self, image_B3HW: Tensor) -> Tensor:
        """Normalised float image in the memory layout the networks run in."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return normalize(image_B3HW).contiguous(memory_format=layout)


class Student:
    """The network that learns, its gradients averaged over the ranks: by DDP, or flat if the run is deterministic."""

    def __init__(self, model: LAVT, compute: Compute, *, compiled: bool, deterministic: bool) -> None:
        self.model = model
        self.compute = compute
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        world = compute.world
        self.network: nn.Module = model
        if world.size > 1 and not deterministic:
            self.network = data_parallel(model, world)
        self.forward = cast("Callable[..., Tensor]", torch.compile(self.network) if compiled else self.network)

    def logits(self, image: Tensor, batch_text: tuple[Tensor, Tensor]) -> Tensor:
        """(B, 2, H, W) of a normalised image and (input_ids, attention_mask)."""
        with self.compute.autocast():
            return self.forward(image, *batch_text)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of one micro-batch; the last one also averages over the ranks."""
        (loss * self.compute.world.size).backward()
        if last and self.network is self.model:
            average_gradients(self.trained, self.compute.world)

    def gathering(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch: DDP communicates in the last one only."""
        if last or self.network is self.model:
            return contextlib.nullcontext()
        return cast("AbstractContextManager[Any]", cast("DistributedDataParallel", self.network).no_sync())


class BurnInStep:
    """Supervised: class-weighted cross-entropy, weighted mean over the global batch; BERT's dropout is off."""

    def __init__(self, student: Student, training: ResolvedTraining) -> None:
        self.student = student
        self.class_weights = training.class_weights

    def compute_gradients(self, micro_batches: Sequence[Batch], *, step: int) -> dict[str, Tensor]:
        """Forward and backward over labelled micro-batches; returns this rank's share of the loss."""
        self.student.model.train()
        self.student.model.text.train(False)
        compute = self.student.compute
        batches = [compute.moved(batch) for batch in micro_batches]
        weights = torch.stack([class_weight_sum(batch["mask"], self.class_weights) for batch in batches])
        denominator = compute.world.sum(weights.sum())
        total = torch.zeros((), dtype=torch.float64, device=compute.world.device)
        for number, batch in enumerate(batches, start=1):
            last = number == len(batches)
            with self.student.gathering(last=last):
                logits = self.student.logits(compute.image(batch["image"]), text_of(batch))
                loss = burn_in_loss(logits, batch["mask"], class_weights=self.class_weights).total / denominator
                self.student.backward(loss, last=last)
            total += loss.detach()
        return {"loss": total}

    def follow_student(self) -> None:
        """There is no teacher yet."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lesson:
    """What the student shall learn of a batch of unlabelled images."""

    pseudo_BHW: Tensor
    """bool: the teacher's argmax."""
    foreground_BHW: Tensor
    """The teacher's foreground probability."""
    refinement: Refinement


class MutualStep:
    """Mean teacher: pseudo-labels of the weak view, refined by proposals, teach the student on the strong view."""

    def __init__(
        self, student: Student, teacher: LAVT, refinement: ResolvedRefinement, training: ResolvedTraining
    ) -> None:
        self.student = student
        self.teacher = teacher
        compiled = cast("Callable[..., Tensor]", torch.compile(teacher) if training.compile else teacher)
        self.teacher_forward = compiled
        self.ema = EmaTeacher(teacher, student.model)
        self.refinement = refinement
        self.training = training
        self.pwa = PixelWeighting(
            enabled=refinement.pwa.enabled,
            gamma=refinement.pwa.gamma,
            mu=refinement.pwa.mu,
            sigma2=refinement.pwa.sigma2,
        )

    def compute_gradients(self, micro_batches: Sequence[tuple[Batch, Batch]], *, step: int) -> dict[str, Tensor]:
        """Forward and backward over (labelled, unlabelled) micro-batches; returns this rank's share of each value."""
        self.student.model.train()
        compute, training = self.student.compute, self.training
        pairs = [(compute.moved(labeled), compute.moved(unlabeled)) for labeled, unlabeled in micro_batches]
        taught = [self.teach(unlabeled["weak"], unlabeled) for _, unlabeled in pairs]
        # All micro-batches first: in the official mixture an image's weight depends on the others of its rank.
        weights = image_weights(
            torch.cat([one.refinement.matched_B for one in taught]),
            mixture=training.mixture,
            denominator=training.batch_unlabeled,
        ).split([len(one.refinement.matched_B) for one in taught])
        totals: dict[str, Tensor] = {}
        for number, ((labeled, unlabeled), one, weight_B) in enumerate(
            zip(pairs, taught, weights, strict=True), start=1
        ):
            last = number == len(pairs)
            with self.student.gathering(last=last):
                loss, values = self._losses(labeled, unlabeled, one, weight_B)
                self.student.backward(loss, last=last)
            add_to(totals, {"loss": loss, **values})
            if (step + 1) % training.log_interval_steps == 0:
                add_to(totals, self._corrections(labeled))
        return totals

    def follow_student(self) -> None:
        """Eq. 3: the teacher moves by 1 - decay towards the student, after every step."""
        self.ema.update(self.training.ema_decay)

    @torch.no_grad()
    def teach(self, view: Tensor, batch: Batch) -> Lesson:
        """What the teacher says of a view: its pseudo-labels, refined by the images' proposals."""
        compute = self.student.compute
        with compute.autocast():
            logits = self.teacher_forward(compute.image(view), *text_of(batch))
        pseudo_BHW = pseudo_label(logits)
        refinement = refine(
            pseudo_BHW,
            batch["proposals"],
            strategy=self.refinement.strategy,
            iou=self.refinement.iou,
            inter1=self.refinement.inter1,
            inter2=self.refinement.inter2,
        )
        return Lesson(pseudo_BHW=pseudo_BHW, foreground_BHW=foreground_probability(logits), refinement=refinement)

    def _losses(
        self, labeled: Batch, unlabeled: Batch, lesson: Lesson, weight_B: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Student forward once on labelled and strong unlabelled images (shared batch statistics), and the loss."""
        training, compute, refinement = self.training, self.student.compute, lesson.refinement
        num_labeled = len(labeled["image"])
        image = torch.cat([compute.image(labeled["image"]), compute.image(unlabeled["strong"])])
        ids, mask = (torch.cat(pair) for pair in zip(text_of(labeled), text_of(unlabeled), strict=True))
        logits = self.student.logits(image, (ids, mask))
        supervised = supervised_loss(
            logits[:num_labeled],
            labeled["mask"],
            class_weights=training.class_weights,
            denominator=training.batch_labeled,
        )
        unsupervised = unsupervised_loss(
            logits[num_labeled:],
            foreground_BHW=lesson.foreground_BHW,
            target_BHW=refinement.target_BHW,
            matched_B=refinement.matched_B,
            weight_B=weight_B,
            class_weights=training.class_weights,
            pwa=self.pwa,
        )
        loss = training.supervised_weight * supervised + training.unsupervised_weight * unsupervised.total
        share, matched = 1 / training.batch_unlabeled, refinement.matched_B.sum()
        return loss, {
            "supervised": supervised,
            "unsupervised": unsupervised.total,
            "sam": unsupervised.sam * matched * share,
            "pwa": unsupervised.pwa * (len(weight_B) - matched) * share,
            "matched_share": matched * share,
            "pseudo_foreground_share": lesson.pseudo_BHW.double().mean(dim=(1, 2)).sum() * share,
        }

    def _corrections(self, labeled: Batch) -> dict[str, Tensor]:
        """How refinement would do on the labelled images, where the truth is known: shares helped and hurt."""
        lesson = self.teach(labeled["image"], labeled)
        counts = count(lesson.refinement, pseudo_BHW=lesson.pseudo_BHW, truth_BHW=labeled["mask"] != 0)
        _, matched, _, _, helped, hurt = counts / self.training.batch_labeled
        return {"labeled_matched_share": matched, "labeled_helped_share": helped, "labeled_hurt_share": hurt}


def text_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask), both (B, T)."""
    return batch["input_ids"], batch["attention_mask"]


def add_to(totals: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Add each value, in float64 and without gradient, to its total."""
    for name, value in values.items():
        detached = value.detach().double()
        totals[name] = totals[name] + detached if name in totals else detached
