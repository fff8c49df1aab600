"""Losses of burn-in and of mutual learning, as sums that several processes can add up.

Every loss takes the global number it is divided by, so that the sum over micro-batches and ranks is the loss
of the whole batch. All is computed in float32 (float64 stays float64), whatever the precision of the logits.

Shapes: B samples, 2 classes (0 background, 1 foreground), H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Mixture = Literal["PerImage", "PerRank"]
ClassWeights = tuple[float, float]
"""Weight of background and of foreground pixels: (0.9, 1.1) in the official code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelWeighting:
    """PWA, pixel-wise weighted adjustment (Eq. 9, 10): the less sure the teacher, the less a pixel weighs.

    Psi(p) = gamma - exp(-(p - mu)^2 / (2 sigma2)) / sqrt(2 pi sigma2); 0.94 at p = 0 and 1, 0.04 at 0.5.
    """

    enabled: bool = True
    gamma: float = 1.3
    mu: float = 0.5
    sigma2: float = 0.1
    """Variance of the Gaussian."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LossSum:
    """A part of a weighted mean: the loss of all parts is (sum of `total`) / (sum of `weight`)."""

    total: Tensor
    """Scalar with gradient."""
    weight: Tensor
    """Scalar, float64, no gradient."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UnsupervisedLoss:
    """Loss of the unlabelled samples, and its two kinds for the log."""

    total: Tensor
    """Scalar with gradient: sum over images of image weight times the image's mean pixel loss."""
    sam: Tensor
    """Mean pixel loss of the matched images, 0 if there is none; no gradient."""
    pwa: Tensor
    """Mean pixel loss of the unmatched images, 0 if there is none; no gradient."""


def pseudo_label(logits_B2HW: Tensor) -> Tensor:
    """Argmax of the teacher as bool (B, H, W); equal logits are background."""
    return logits_B2HW[:, 1] > logits_B2HW[:, 0]


def foreground_probability(logits_B2HW: Tensor) -> Tensor:
    """Softmax probability of class 1: (B, H, W), no gradient."""
    return torch.sigmoid(_margin(logits_B2HW.detach()))


def cross_entropy(logits_B2HW: Tensor, target_BHW: Tensor) -> Tensor:
    """Two-class cross-entropy of each pixel, in nats: (B, H, W). The target is bool or 0/1."""
    margin_BHW = _margin(logits_B2HW)
    sign_BHW = target_BHW.to(margin_BHW.dtype) * 2 - 1
    return -F.logsigmoid(margin_BHW * sign_BHW)


def class_weight_sum(target_BHW: Tensor, class_weights: ClassWeights) -> Tensor:
    """Sum of the class weights of all pixels, a float64 scalar: its share of burn-in's denominator."""
    foreground = (target_BHW != 0).sum(dtype=torch.int64).to(torch.float64)
    return class_weights[0] * (target_BHW.numel() - foreground) + class_weights[1] * foreground


def burn_in_loss(logits_B2HW: Tensor, target_BHW: Tensor, *, class_weights: ClassWeights) -> LossSum:
    """Class-weighted cross-entropy of burn-in; `total` / `weight` is PyTorch's weighted mean."""
    total = _class_weighted(logits_B2HW, target_BHW, class_weights).sum()
    return LossSum(total=total, weight=class_weight_sum(target_BHW, class_weights))


def supervised_loss(
    logits_B2HW: Tensor, target_BHW: Tensor, *, class_weights: ClassWeights, denominator: int
) -> Tensor:
    """L_sup of mutual learning: class-weighted cross-entropy, plain mean over pixels and `denominator`
    images.

    The weights are not divided out: the official loss differs from burn-in's by the mean weight, 0.9 to 1.0.
    """
    return _class_weighted(logits_B2HW, target_BHW, class_weights).mean(dim=(1, 2)).sum() / denominator


def pixel_weight(foreground_BHW: Tensor, pwa: PixelWeighting) -> Tensor:
    """Psi of the teacher's foreground probability, without gradient; 1 everywhere if `pwa` is not enabled."""
    if not pwa.enabled:
        return torch.ones_like(foreground_BHW)
    deviation = foreground_BHW.detach() - pwa.mu
    peak = 1 / math.sqrt(2 * math.pi * pwa.sigma2)
    return pwa.gamma - peak * torch.exp(deviation.square() / (-2 * pwa.sigma2))


def image_weights(matched_B: Tensor, *, mixture: Mixture, denominator: int) -> Tensor:
    """Weight of each unlabelled image in L_unsup, float64 (B,); `denominator` is the global number of images.

    PerImage: every image weighs 1 / denominator. PerRank (official): the mean over the matched images plus
    the mean over the unmatched, halved if there are both, times this batch's share B / denominator of the
    images. So with B = denominator it is the official loss of one process, and summed over ranks it is the
    mean of their losses. `matched_B` must be the rank's whole batch: take slices of the result for its micro-
    batches.
    """
    matched = matched_B.to(torch.float64)
    if mixture == "PerImage":
        return torch.full_like(matched, 1 / denominator)
    if mixture != "PerRank":
        raise ValueError(f"mixture of unsupervised losses: expected PerImage or PerRank, got {mixture!r}")
    batch = matched.numel()
    hits = matched.sum()
    both = (hits > 0) & (hits < batch)
    per_kind = torch.where(matched_B, hits, batch - hits).clamp(min=1) * torch.where(both, 2.0, 1.0)
    return batch / denominator / per_kind


def unsupervised_loss(
    student_B2HW: Tensor,
    *,
    foreground_BHW: Tensor,
    target_BHW: Tensor,
    matched_B: Tensor,
    weight_B: Tensor,
    class_weights: ClassWeights,
    pwa: PixelWeighting,
) -> UnsupervisedLoss:
    """L_unsup: matched images by class-weighted cross-entropy, the others by Psi times cross-entropy.

    `foreground_BHW` is the teacher's probability, `weight_B` comes from `image_weights`.
    """
    pixel_BHW = cross_entropy(student_B2HW, target_BHW)
    by_class = _class_weight_map(target_BHW, class_weights, pixel_BHW.dtype)
    by_doubt = pixel_weight(foreground_BHW.to(pixel_BHW.dtype), pwa)
    weight_BHW = torch.where(matched_B[:, None, None], by_class, by_doubt)
    image_B = (pixel_BHW * weight_BHW).mean(dim=(1, 2))
    return UnsupervisedLoss(
        total=(image_B * weight_B.to(image_B.dtype)).sum(),
        sam=_mean_where(image_B.detach(), matched_B),
        pwa=_mean_where(image_B.detach(), ~matched_B),
    )


def _margin(logits_B2HW: Tensor) -> Tensor:
    """Logit of the foreground minus logit of the background, at least float32."""
    wide = logits_B2HW if logits_B2HW.dtype == torch.float64 else logits_B2HW.float()
    return wide[:, 1] - wide[:, 0]


def _class_weight_map(target_BHW: Tensor, class_weights: ClassWeights, dtype: torch.dtype) -> Tensor:
    background, foreground = class_weights
    weights = torch.full(target_BHW.shape, background, dtype=dtype, device=target_BHW.device)
    return weights.masked_fill_(target_BHW != 0, foreground)


def _class_weighted(logits_B2HW: Tensor, target_BHW: Tensor, class_weights: ClassWeights) -> Tensor:
    pixel_BHW = cross_entropy(logits_B2HW, target_BHW)
    return pixel_BHW * _class_weight_map(target_BHW, class_weights, pixel_BHW.dtype)


def _mean_where(values_B: Tensor, chosen_B: Tensor) -> Tensor:
    return torch.where(chosen_B, values_B, 0.0).sum() / chosen_B.sum().clamp(min=1)
