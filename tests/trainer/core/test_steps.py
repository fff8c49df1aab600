"""One step of each stage against a straight-line statement of algorithm.md 1.2 to 1.4, written in plain torch.

All in float64: where the gradient is zero but for rounding, AdamW's first step would otherwise be its random sign.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semires_trainer.config import Resolved
from semires_trainer.distributed import World
from semires_trainer.models.build import build_model, parameter_groups
from semires_trainer.models.lavt import LAVT
from semires_trainer.optim import build_optimizer, poly_learning_rate, set_learning_rate
from semires_trainer.refine.packed import ProposalBatch
from semires_trainer.steps import BurnInStep, Compute, MutualStep, Student

SIZE, TOKENS, WORDS = 64, 8, 100
STEP, TOTAL = 4, 10


@dataclass
class Scene:
    """A student that has learned a little else than its teacher, and one batch of each kind."""

    resolved: Resolved
    student: LAVT
    teacher: LAVT
    labeled: dict[str, Any]
    unlabeled: dict[str, Any]
    proposals: list[Tensor]
    """bool (K, S, S) of each unlabelled image: the first two have one that fits, the third others, the fourth none."""


def texts(count: int) -> dict[str, Tensor]:
    lengths = torch.randint(3, TOKENS + 1, (count, 1))
    mask = (torch.arange(TOKENS)[None] < lengths).long()
    return {"input_ids": torch.randint(1, WORDS, (count, TOKENS)) * mask, "attention_mask": mask}


def packed(masks: Tensor) -> tuple[Tensor, Tensor]:
    bits = torch.from_numpy(np.packbits(masks.numpy(), axis=-1))
    return bits, masks.sum(dim=(1, 2))


def scene_of(
    harness: ModuleType,
    tmp_path: Path,
    *,
    text_dropout: float = 0.0,
    preset: str = "Paper",
    batch_norm: bool = True,
    refinement: dict[str, Any] | None = None,
) -> Scene:
    torch.manual_seed(0)
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(f"word{number}" for number in range(WORDS)) + "\n")
    document = harness.changed(
        harness.document_of(tmp_path, tmp_path / "out", preset=preset),
        model__vocab=str(vocab),
        model__dropPath="0",
        refinement=refinement or {},
    )
    resolved = harness.resolved_of(document)
    teacher = build_model(resolved.model, seed=1, text_dropout=text_dropout).double().eval()
    student = build_model(resolved.model, seed=2, text_dropout=text_dropout).double()
    if not batch_norm:
        remove_batch_norm(teacher)
        remove_batch_norm(student)
    unlabeled = {"weak": pictures(4), "strong": pictures(4), **texts(4)}
    balance(teacher, unlabeled)
    labeled = {
        "image": pictures(4),
        "mask": torch.randint(0, 2, (4, SIZE, SIZE), dtype=torch.uint8),
        "proposals": ProposalBatch.empty(samples=4, height=SIZE, width=SIZE),
        **texts(4),
    }
    pseudo = probability(teacher, unlabeled) > 0.5
    noise = torch.rand(3, SIZE, SIZE)
    fitting = torch.stack([pseudo[0] ^ (noise[0] < 0.1), pseudo[1] | (noise[1] < 0.2), noise[2] < 0.3])
    proposals = [torch.stack([noise[number] > 0.6, fitting[number], noise[number] > 0.99]) for number in range(3)]
    proposals.append(torch.zeros(0, SIZE, SIZE, dtype=torch.bool))
    unlabeled["proposals"] = ProposalBatch.stack([packed(masks) for masks in proposals])
    return Scene(resolved, student, teacher, labeled, unlabeled, proposals)


def remove_batch_norm(model: LAVT) -> None:
    """Batch norm is the one part that mixes pictures of a micro-batch."""
    for parent in model.decoder.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())


def pictures(count: int) -> Tensor:
    """Float pictures are normalised already."""
    return torch.randn(count, 3, SIZE, SIZE, dtype=torch.float64)


def probability(teacher: LAVT, batch: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        logits = teacher(batch["weak"], batch["input_ids"], batch["attention_mask"])
    return logits.softmax(dim=1)[:, 1]


def balance(teacher: LAVT, batch: dict[str, Any]) -> None:
    """Shift and stretch the last layer so that half the pixels are foreground, with all degrees of certainty."""
    probabilities = probability(teacher, batch)
    last = [module for module in teacher.decoder.modules() if isinstance(module, nn.Conv2d)][-1]
    assert last.bias is not None
    with torch.no_grad():
        last.bias[1] -= torch.logit(probabilities).median()
        last.weight *= 5
        last.bias *= 5


# The straight line: one picture, one pixel rule, one parameter after another.


def refined_by_hand(pseudo: Tensor, masks: Tensor, strategy: str) -> tuple[Tensor, bool]:
    c, chosen, best = pseudo.double(), torch.zeros_like(pseudo), 0.0
    matched = False
    for mask in masks:
        m = mask.double()
        both = float((c * m).sum())
        if strategy == "IOM":
            iou = both / float((c + m - c * m).sum())
            if iou > 0.5 and iou > best:
                best, chosen, matched = iou, mask, True
        elif (strategy in ("CPI-U", "CPI") and both / (float(c.sum()) + 1e-9) > 0.7) or (
            strategy in ("CPI-O", "CPI") and m.sum() > 0 and both / float(m.sum()) > 0.7
        ):
            chosen, matched = chosen | mask, True
    return (chosen if matched else pseudo), matched


def class_weights(foreground: Tensor) -> Tensor:
    return 0.9 + 0.2 * foreground.double()


def image_loss_by_hand(logits_2HW: Tensor, target: Tensor, p: Tensor, *, matched: bool) -> Tensor:
    pixel = F.cross_entropy(logits_2HW[None], target[None].long(), reduction="none")[0]
    if matched:
        return (pixel * class_weights(target)).mean()
    psi = 1.3 - torch.exp(-((p - 0.5) ** 2) / 0.2) / math.sqrt(2 * math.pi * 0.1)
    return (pixel * psi).mean()


def mutual_loss_by_hand(scene: Scene, strategy: str, *, preset: str) -> Tensor:
    labeled, unlabeled = scene.labeled, scene.unlabeled
    scene.student.train()
    logits = scene.student(
        torch.cat([labeled["image"], unlabeled["strong"]]),
        torch.cat([labeled["input_ids"], unlabeled["input_ids"]]),
        torch.cat([labeled["attention_mask"], unlabeled["attention_mask"]]),
    )
    truth = labeled["mask"].long()
    pixel = F.cross_entropy(logits[:4], truth, reduction="none")
    supervised = (pixel * class_weights(truth == 1)).mean()
    sam, pwa = [], []
    for number, p in enumerate(probability(scene.teacher, unlabeled)):
        target, matched = refined_by_hand(p > 0.5, scene.proposals[number], strategy)
        loss = image_loss_by_hand(logits[4 + number], target, p, matched=matched)
        (sam if matched else pwa).append(loss)
    if preset == "Paper":
        return supervised + torch.stack(sam + pwa).mean()
    means = [torch.stack(kind).mean() for kind in (sam, pwa) if kind]
    return (10 if preset == "OfficialIOM" else 1) * supervised + torch.stack(means).mean()


def burn_in_loss_by_hand(scene: Scene) -> Tensor:
    """PyTorch's weighted mean; batch norm and drop-path in train mode, BERT's dropout off."""
    scene.student.train()
    scene.student.text.eval()
    labeled = scene.labeled
    logits = scene.student(labeled["image"], labeled["input_ids"], labeled["attention_mask"])
    weight = torch.tensor([0.9, 1.1], dtype=torch.float64)
    return F.cross_entropy(logits, labeled["mask"].long(), weight=weight)


def step_by_hand(scene: Scene, loss: Tensor, *, rate: float) -> None:
    """Backward and AdamW's first step: bias correction makes its moments the gradient and the gradient's square."""
    scene.student.zero_grad()
    loss.backward()
    with torch.no_grad():
        for name, parameter in scene.student.named_parameters():
            if parameter.grad is not None:
                in_visual_half = not name.startswith(("decoder", "text"))
                if not (in_visual_half and ("norm" in name or "relative_position_bias_table" in name)):
                    parameter *= 1 - rate * 0.01
                parameter -= rate * parameter.grad / (parameter.grad.abs() + 1e-8)


def follow_by_hand(scene: Scene, decay: float) -> None:
    students = scene.student.state_dict()
    for name, own in scene.teacher.state_dict().items():
        own.copy_(decay * own + (1 - decay) * students[name] if own.is_floating_point() else students[name])


# The program.


def student_of(model: LAVT) -> Student:
    compute = Compute(world=World(), bf16=False, channels_last=False)
    return Student(model, compute, compiled=False, deterministic=True)


def optimizer_of(scene: Scene, student: LAVT) -> torch.optim.Optimizer:
    groups = parameter_groups(student, weight_decay=scene.resolved.training.weight_decay, train_embeddings=True)
    return build_optimizer(groups, learning_rate=1.0, device=torch.device("cpu"))


def step_by_program(scene: Scene, step: BurnInStep | MutualStep, batches: list[Any]) -> dict[str, Tensor]:
    """What the loop does; the models of `step` are changed in place."""
    training = scene.resolved.training
    optimizer = optimizer_of(scene, step.student.model)
    rate = poly_learning_rate(
        STEP, total_steps=TOTAL, base=training.learning_rate, power=training.poly_power, horizon=training.lr_horizon
    )
    set_learning_rate(optimizer, rate)
    values = step.compute_gradients(batches, step=STEP)
    optimizer.step()
    step.follow_student()
    return values


def mutual_step_of(scene: Scene) -> MutualStep:
    student, teacher = copy.deepcopy(scene.student), copy.deepcopy(scene.teacher)
    return MutualStep(student_of(student), teacher, scene.resolved.refinement, scene.resolved.training)


def assert_same(model: LAVT, expected: LAVT) -> None:
    wanted = expected.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(
    ("changes", "strategy", "matched"),
    [
        pytest.param({}, "CPI-U", [True, True, False, False], id="paper"),
        pytest.param({"refinement": {"strategy": "CPI-O"}}, "CPI-O", [True, True, False, False], id="cpi-o"),
        pytest.param({"refinement": {"strategy": "None"}}, "None", [False] * 4, id="no-refinement"),
        pytest.param({"preset": "OfficialCPI"}, "CPI", [True, True, False, False], id="official-cpi"),
        pytest.param({"preset": "OfficialIOM"}, "IOM", [True, True, False, False], id="official-iom"),
    ],
)
def test_a_step_of_mutual_learning_is_the_published_one(
    harness: ModuleType, tmp_path: Path, changes: dict[str, Any], strategy: str, matched: list[bool]
) -> None:
    scene = scene_of(harness, tmp_path, **changes)
    official = changes.get("preset", "Paper")
    step = mutual_step_of(scene)

    values = step_by_program(scene, step, [(scene.labeled, scene.unlabeled)])

    chosen = [
        refined_by_hand(p > 0.5, masks, strategy)[1]
        for p, masks in zip(probability(scene.teacher, scene.unlabeled), scene.proposals, strict=True)
    ]
    assert chosen == matched
    loss = mutual_loss_by_hand(scene, strategy, preset=official)
    horizon = TOTAL if official == "Paper" else 2 * TOTAL
    step_by_hand(scene, loss, rate=1e-3 * (1 - STEP / horizon) ** 0.9)
    follow_by_hand(scene, 0.9)
    assert float(values["loss"]) == pytest.approx(loss.item(), rel=1e-12)
    assert float(values["matched_share"]) == pytest.approx(sum(matched) / 4)
    assert_same(step.student.model, scene.student)
    assert_same(step.teacher, scene.teacher)


def test_a_step_of_burn_in_is_the_published_one(harness: ModuleType, tmp_path: Path) -> None:
    """With dropout in the text encoder, which burn-in leaves off."""
    scene = scene_of(harness, tmp_path, text_dropout=0.5)
    step = BurnInStep(student_of(copy.deepcopy(scene.student)), scene.resolved.training)

    values = step_by_program(scene, step, [scene.labeled])

    loss = burn_in_loss_by_hand(scene)
    step_by_hand(scene, loss, rate=1e-3 * (1 - STEP / TOTAL) ** 0.9)
    assert float(values["loss"]) == pytest.approx(loss.item(), rel=1e-12)
    assert_same(step.student.model, scene.student)


def test_the_text_encoder_has_dropout_in_mutual_learning(harness: ModuleType, tmp_path: Path) -> None:
    scene = scene_of(harness, tmp_path, text_dropout=0.5)
    batch = [(scene.labeled, scene.unlabeled)]

    first, second = (float(mutual_step_of(scene).compute_gradients(batch, step=0)["loss"]) for _ in range(2))

    assert first != second


def test_the_teacher_never_learns_by_gradient(harness: ModuleType, tmp_path: Path) -> None:
    scene = scene_of(harness, tmp_path)
    step = mutual_step_of(scene)
    before = copy.deepcopy(step.teacher.state_dict())

    step.compute_gradients([(scene.labeled, scene.unlabeled)], step=0)

    assert all(parameter.grad is None for parameter in step.teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in step.teacher.state_dict().items())


def part_of(batch: dict[str, Any], chosen: slice, proposals: list[Tensor] | None = None) -> dict[str, Any]:
    part = {key: value[chosen] for key, value in batch.items() if isinstance(value, Tensor)}
    if proposals is not None:
        part["proposals"] = ProposalBatch.stack([packed(masks) for masks in proposals[chosen]])
    return part


def gradients_of(model: LAVT) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("preset", ["Paper", "OfficialIOM"])
def test_accumulated_micro_batches_are_the_whole_batch(harness: ModuleType, tmp_path: Path, preset: str) -> None:
    scene = scene_of(harness, tmp_path, preset=preset, batch_norm=False)
    whole, pieces = mutual_step_of(scene), mutual_step_of(scene)
    cuts = [(slice(0, 2), slice(0, 1)), (slice(2, 4), slice(1, 4))]
    micro_batches = [
        (part_of(scene.labeled, labeled), part_of(scene.unlabeled, unlabeled, scene.proposals))
        for labeled, unlabeled in cuts
    ]

    at_once = whole.compute_gradients([(scene.labeled, scene.unlabeled)], step=0)
    in_pieces = pieces.compute_gradients(micro_batches, step=0)

    assert {name: float(value) for name, value in in_pieces.items()} == pytest.approx(
        {name: float(value) for name, value in at_once.items()}, rel=1e-9
    )
    torch.testing.assert_close(gradients_of(pieces.student.model), gradients_of(whole.student.model))


def test_accumulated_micro_batches_of_burn_in_are_the_whole_batch(harness: ModuleType, tmp_path: Path) -> None:
    """Uneven shares of foreground: the denominator is that of the whole batch."""
    scene = scene_of(harness, tmp_path, batch_norm=False)
    scene.labeled["mask"][0] = 0
    training = scene.resolved.training
    whole, pieces = (BurnInStep(student_of(copy.deepcopy(scene.student)), training) for _ in range(2))

    at_once = whole.compute_gradients([scene.labeled], step=0)
    in_pieces = pieces.compute_gradients(
        [part_of(scene.labeled, slice(0, 1)), part_of(scene.labeled, slice(1, 4))], step=0
    )

    assert float(in_pieces["loss"]) == pytest.approx(float(at_once["loss"]), rel=1e-12)
    torch.testing.assert_close(gradients_of(pieces.student.model), gradients_of(whole.student.model))


def test_corrections_of_labelled_images_are_counted_when_metrics_are_written(
    harness: ModuleType, tmp_path: Path
) -> None:
    """logIntervalSteps is 2: after the second step, not after the first."""
    scene = scene_of(harness, tmp_path)
    step = mutual_step_of(scene)

    first, second = (step.compute_gradients([(scene.labeled, scene.unlabeled)], step=number) for number in (0, 1))

    assert set(second) - set(first) == {"labeled_matched_share", "labeled_helped_share", "labeled_hurt_share"}
    assert float(second["labeled_matched_share"]) == 0
