"""Learning rate and optimizer. The learning rate is a function of the step: a resumed run needs no scheduler state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

LR_HORIZON = {"True": 1, "Doubled": 2}


def poly_learning_rate(step: int, *, total_steps: int, base: float, power: float, horizon: str = "True") -> float:
    """base * (1 - step / total)^power, for steps 0 .. total_steps - 1 (LAVT's schedule).

    `Doubled` counts twice the real steps, as the official SemiRES code does (it reads loader lengths after they were
    made equal), so that the rate ends at 0.536 * base instead of 0.
    """
    return float(base * (1 - step / (total_steps * LR_HORIZON[horizon])) ** power)


def build_optimizer(
    groups: Iterable[dict[str, Any]], *, learning_rate: float, device: torch.device
) -> torch.optim.AdamW:
    """AdamW over the groups of `models.build.parameter_groups`; fused kernels on GPUs, multi-tensor on CPUs."""
    on_gpu = device.type == "cuda"
    return torch.optim.AdamW(list(groups), lr=learning_rate, fused=on_gpu, foreach=not on_gpu)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the same learning rate for all groups (algorithm: all groups share it)."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
