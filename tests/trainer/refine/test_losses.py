import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from semires_trainer.refine.losses import (
    PixelWeighting,
    burn_in_loss,
    class_weight_sum,
    cross_entropy,
    foreground_probability,
    image_weights,
    pixel_weight,
    pseudo_label,
    supervised_loss,
    unsupervised_loss,
)
from semires_trainer.refine.match import refine
from semires_trainer.refine.packed import ProposalBatch, pack

VECTORS = Path(__file__).parents[2] / "data" / "vectors" / "loss"
TENSORS = load_file(VECTORS / "losses.safetensors")
DESCRIBED = json.loads((VECTORS / "losses.json").read_text())
CASES = {case["case"]: case for case in DESCRIBED["cases"]}
CLASS_WEIGHTS = (0.9, 1.1)
PRESETS = {"official-cpi": ("CPI", 1), "official-iom": ("IOM", 10)}
NAMES = [(case, preset) for case in CASES for preset in PRESETS]


def refined(case, preset):
    batch = CASES[case]["batch"]
    pseudo = pseudo_label(TENSORS[f"{batch}.teacher"])
    masks = [TENSORS[f"{case}.proposals_{b}"].bool() for b in range(len(pseudo))]
    proposals = ProposalBatch.stack([(pack(part), part.sum(dim=(1, 2))) for part in masks])
    return refine(pseudo, proposals, strategy=PRESETS[preset][0])


def official_losses(case, preset, dtype):
    """Our losses in the official combination, with the student's logits as leaves."""
    batch = CASES[case]["batch"]
    labelled, unlabelled, teacher = (
        TENSORS[f"{batch}.{name}"].to(dtype, copy=True)
        for name in ("student_labelled", "student_unlabelled", "teacher")
    )
    labelled.requires_grad_()
    unlabelled.requires_grad_()
    refinement = refined(case, preset)
    supervised = supervised_loss(
        labelled, TENSORS[f"{batch}.labels"], class_weights=CLASS_WEIGHTS, denominator=len(labelled)
    )
    unsupervised = unsupervised_loss(
        unlabelled,
        foreground_BHW=foreground_probability(teacher),
        target_BHW=refinement.target_BHW,
        matched_B=refinement.matched_B,
        weight_B=image_weights(refinement.matched_B, mixture="PerRank", denominator=len(unlabelled)),
        class_weights=CLASS_WEIGHTS,
        pwa=PixelWeighting(),
    )
    total = PRESETS[preset][1] * supervised + unsupervised.total
    found = {
        "L_sup": supervised,
        "L_sam": unsupervised.sam,
        "L_pwa": unsupervised.pwa,
        "L_unsup": unsupervised.total,
        "L_total": total,
    }
    return found, labelled, unlabelled


@pytest.mark.parametrize(("case", "preset"), NAMES)
@pytest.mark.parametrize(
    ("dtype", "suffix", "tolerance"),
    [
        pytest.param(torch.float32, "", 2e-6, id="float32"),
        pytest.param(torch.float64, "_float64", 1e-12, id="float64"),
    ],
)
def test_losses_are_the_official_ones(case, preset, dtype, suffix, tolerance):
    found, _, _ = official_losses(case, preset, dtype)

    expected = CASES[case]["losses"][f"{preset}{suffix}"]
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(("case", "preset"), NAMES)
def test_targets_and_flags_behind_the_losses_are_the_official_ones(case, preset):
    refinement = refined(case, preset)

    assert refinement.matched_B.tolist() == CASES[case]["matched"][preset]
    assert torch.equal(refinement.target_BHW, TENSORS[f"{case}.{preset}.targets"].bool())


@pytest.mark.parametrize("preset", PRESETS)
def test_gradients_are_the_official_ones(preset):
    case = "two_matched_one_not"
    found, labelled, unlabelled = official_losses(case, preset, torch.float32)

    found["L_total"].backward()

    for leaf, name in ((labelled, "labelled"), (unlabelled, "unlabelled")):
        expected = TENSORS[f"{case}.{preset}.grad_student_{name}"]
        torch.testing.assert_close(leaf.grad, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_burn_in_loss_is_the_official_weighted_mean(case):
    batch = CASES[case]["batch"]

    part = burn_in_loss(TENSORS[f"{batch}.student_labelled"], TENSORS[f"{batch}.labels"], class_weights=CLASS_WEIGHTS)

    expected = CASES[case]["losses"]["burn_in_weighted_mean"]
    assert (part.total / part.weight).item() == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
def test_pixel_weight_follows_the_official_curve(dtype, tolerance):
    curve = json.loads((VECTORS / "pwa_curve.json").read_text())

    weight = pixel_weight(torch.tensor(curve["p"], dtype=dtype), PixelWeighting())

    np.testing.assert_allclose(weight, curve[f"psi_{str(dtype).removeprefix('torch.')}"], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("probability", "weight", "digits"),
    [
        (0.0, 0.9386, 4),
        (1.0, 0.9386, 4),
        (0.1, 0.7331, 4),
        (0.9, 0.7331, 4),
        (0.25, 0.377, 3),
        (0.4, 0.1, 3),
        (0.5, 0.0384, 4),
    ],
)
def test_pixel_weight_has_the_published_values(probability, weight, digits):
    psi = pixel_weight(torch.tensor(probability, dtype=torch.float64), PixelWeighting())

    assert round(psi.item(), digits) == weight


def test_pixel_weight_is_one_without_pwa():
    probability = torch.linspace(0, 1, 5)

    assert torch.equal(pixel_weight(probability, PixelWeighting(enabled=False)), torch.ones(5))


def test_pixel_weight_carries_no_gradient():
    probability = torch.full((2,), 0.3, requires_grad=True)

    assert not pixel_weight(probability, PixelWeighting()).requires_grad


def random_batch(samples, *, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn((samples, 2, size, size), dtype=torch.float64, generator=generator) * 3
    teacher = torch.randn((samples, 2, size, size), dtype=torch.float64, generator=generator)
    target = torch.rand((samples, size, size), generator=generator) < 0.4
    matched = torch.arange(samples) % 3 != 0
    return student, teacher, target, matched


def unsupervised(student, teacher, target, matched, weight, *, pwa=None):
    return unsupervised_loss(
        student,
        foreground_BHW=foreground_probability(teacher),
        target_BHW=target,
        matched_B=matched,
        weight_B=weight,
        class_weights=CLASS_WEIGHTS,
        pwa=pwa or PixelWeighting(),
    )


PARTS = [pytest.param((5, 7), id="two-ranks"), pytest.param((1, 2, 4, 5), id="uneven-micro-batches")]


@pytest.mark.parametrize("parts", PARTS)
def test_parts_of_a_burn_in_batch_add_up_to_its_loss(parts):
    student, _, target, _ = random_batch(sum(parts))
    whole = burn_in_loss(student, target, class_weights=CLASS_WEIGHTS)

    pieces = [
        burn_in_loss(logits, truth, class_weights=CLASS_WEIGHTS)
        for logits, truth in zip(student.split(parts), target.split(parts), strict=True)
    ]

    total, weight = sum(piece.total for piece in pieces), sum(piece.weight for piece in pieces)
    class_weights = torch.tensor(CLASS_WEIGHTS, dtype=torch.float64)
    expected = F.cross_entropy(student, target.long(), weight=class_weights)
    assert (total / weight).item() == pytest.approx((whole.total / whole.weight).item(), rel=1e-13)
    assert (total / weight).item() == pytest.approx(expected.item(), rel=1e-13)


@pytest.mark.parametrize("parts", PARTS)
def test_parts_of_a_labelled_batch_add_up_to_its_loss(parts):
    student, _, target, _ = random_batch(sum(parts))

    pieces = [
        supervised_loss(logits, truth, class_weights=CLASS_WEIGHTS, denominator=sum(parts))
        for logits, truth in zip(student.split(parts), target.split(parts), strict=True)
    ]

    whole = supervised_loss(student, target, class_weights=CLASS_WEIGHTS, denominator=sum(parts))
    assert sum(pieces).item() == pytest.approx(whole.item(), rel=1e-13)


@pytest.mark.parametrize("parts", PARTS)
def test_per_image_losses_add_up_whatever_the_ranks_and_their_mixtures(parts):
    batch = random_batch(sum(parts))
    count = sum(parts)

    pieces = [
        unsupervised(*piece, image_weights(piece[3], mixture="PerImage", denominator=count)).total
        for piece in zip(*(tensor.split(parts) for tensor in batch), strict=True)
    ]

    whole = unsupervised(*batch, image_weights(batch[3], mixture="PerImage", denominator=count)).total
    assert sum(pieces).item() == pytest.approx(whole.item(), rel=1e-13)


def test_per_image_loss_weighs_every_image_alike():
    student, teacher, target, matched = random_batch(5)
    weight = image_weights(matched, mixture="PerImage", denominator=5)

    found = unsupervised(student, teacher, target, matched, weight)

    pixel = cross_entropy(student, target)
    by_class = 0.9 + 0.2 * target.double()
    by_doubt = pixel_weight(foreground_probability(teacher), PixelWeighting())
    sam, pwa = ((pixel * by).mean(dim=(1, 2)) for by in (by_class, by_doubt))
    expected = [torch.where(matched, sam, pwa).mean(), sam[matched].mean(), pwa[~matched].mean()]
    torch.testing.assert_close([found.total, found.sam, found.pwa], expected, rtol=1e-12, atol=0)


def test_per_rank_losses_sum_to_the_mean_of_the_ranks():
    matched = [torch.tensor([True, True, False]), torch.tensor([True, True, True])]

    weights = [image_weights(part, mixture="PerRank", denominator=6).tolist() for part in matched]

    assert weights == [pytest.approx([1 / 8, 1 / 8, 1 / 4]), pytest.approx([1 / 6, 1 / 6, 1 / 6])]


def test_an_unknown_mixture_is_refused():
    with pytest.raises(ValueError, match="PerImage or PerRank, got 'PerGpu'"):
        image_weights(torch.tensor([True]), mixture="PerGpu", denominator=1)


def test_without_pwa_unmatched_images_use_plain_cross_entropy():
    student, teacher, target, _ = random_batch(2)
    none = torch.zeros(2, dtype=torch.bool)
    weight = image_weights(none, mixture="PerImage", denominator=2)

    found = unsupervised(student, teacher, target, none, weight, pwa=PixelWeighting(enabled=False))

    assert found.total.item() == pytest.approx(F.cross_entropy(student, target.long()).item(), rel=1e-12)


def test_cross_entropy_equals_pytorchs_and_so_do_its_gradients():
    logits, _, target, _ = random_batch(3)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    cross_entropy(ours, target).sum().backward()
    F.cross_entropy(theirs, target.long(), reduction="sum").backward()

    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_extreme_logits_of_any_precision_give_finite_losses_and_gradients(dtype):
    logits = torch.tensor([-300.0, 300.0, 0.0, 60000.0], dtype=dtype).reshape(1, 2, 1, 2).requires_grad_()

    loss = cross_entropy(logits, torch.tensor([[[True, False]]]))
    loss.sum().backward()

    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()


def test_losses_do_not_change_inside_autocast():
    student, teacher, target, matched = random_batch(4)
    student, teacher = student.float(), teacher.float()
    weight = image_weights(matched, mixture="PerImage", denominator=4)
    expected = unsupervised(student, teacher, target, matched, weight).total

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = unsupervised(student, teacher, target, matched, weight).total

    assert found.item() == expected.item()


def test_targets_made_in_inference_mode_can_be_trained_on():
    student, teacher, target, matched = random_batch(3)
    with torch.inference_mode():
        made = [tensor.clone() for tensor in (teacher, target, matched)]
    weight = image_weights(matched, mixture="PerImage", denominator=3)

    unsupervised(student.requires_grad_(), *made, weight).total.backward()

    assert student.grad.abs().sum() > 0


def test_equal_logits_are_background():
    assert not pseudo_label(torch.zeros((1, 2, 2, 2))).any()


def test_class_weight_sum_counts_pixels():
    target = torch.tensor([[[1, 0, 0, 0]]], dtype=torch.uint8)

    assert class_weight_sum(target, CLASS_WEIGHTS).item() == pytest.approx(0.9 * 3 + 1.1)
