"""Which device a process computes on: never the CPU where GPUs were asked for and are not there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from semires_trainer.errors import InfrastructureError

GPUS_VARIABLE = "SEMIRES_GPUS"
"""GPUs of this node, set by the operator from `spec.resources.gpusPerNode`."""
NAMED = re.compile(r"\d+|(GPU|MIG)-[\w/-]+", re.IGNORECASE)
"""A device in CUDA_VISIBLE_DEVICES or NVIDIA_VISIBLE_DEVICES: a number or a UUID. `all`, which base images set on
every machine, `none`, `void` and -1 name none."""


class GpuNotVisible(InfrastructureError):
    """GPUs that were asked for are not there, or fewer than processes."""

    reason = "GpuNotVisible"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """GPUs that the environment promises this node."""

    count: int
    source: str
    """The variable and its value."""


def wish_of(environment: Mapping[str, str]) -> Wish | None:
    """The first that says something: SEMIRES_GPUS, CUDA_VISIBLE_DEVICES, NVIDIA_VISIBLE_DEVICES; None: none of them.

    CUDA_VISIBLE_DEVICES that names no device hides all (CUDA C++ programming guide): a wish for none.
    """
    operator = environment.get(GPUS_VARIABLE, "").strip()
    if operator.isdecimal():
        return Wish(count=int(operator), source=f"{GPUS_VARIABLE}={operator}")
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        value = environment.get(name)
        count = num_named(value or "")
        if value is not None and (count or name.startswith("CUDA")):
            return Wish(count=count, source=f"{name}={value}")
    return None


def num_named(devices: str) -> int:
    """How many devices a list names, up to the first that is none, where CUDA stops reading."""
    count = 0
    for device in devices.split(","):
        if not NAMED.fullmatch(device.strip()):
            break
        count += 1
    return count


def device_of(wanted: str, local_rank: int, *, local_size: int = 1) -> torch.device:
    """Resolve `training.device` Auto, CUDA or CPU for one of `local_size` processes of this node.

    GpuNotVisible if a GPU was asked for, by the manifest or by the environment, and is not visible, or if there
    are fewer GPUs than processes. Auto is the CPU only where nobody asked for a GPU and none is there.
    """
    if wanted == "CPU":
        return torch.device("cpu")
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wish = wish_of(os.environ)
    if wish and wish.count > visible:
        raise _not_visible(f"{wish.source} asks for {_gpus(wish.count)}", visible)
    if wanted == "CUDA" and visible == 0:
        raise _not_visible("device CUDA asks for a GPU", visible)
    if visible == 0:
        return torch.device("cpu")
    if max(local_size, local_rank + 1) > visible:
        raise _not_visible(f"{max(local_size, local_rank + 1)} processes need a GPU each", visible)
    return torch.device("cuda", local_rank)


def _not_visible(asked: str, visible: int) -> GpuNotVisible:
    why = f" ({_problem()})" if visible == 0 else ""
    if not _has_gpu_build():
        remedy = "Install a build of PyTorch for GPUs"
    elif visible == 0:
        remedy = "Look with nvidia-smi: driver, container runtime, the cluster's device plugin"
    else:
        remedy = "Start one process per GPU, or look with nvidia-smi and at CUDA_VISIBLE_DEVICES why others are hidden"
    return GpuNotVisible(
        f"{asked}, but PyTorch sees {_gpus(visible)}{why}",
        field="spec.training.device",
        remedy=f"{remedy}; device: CPU trains without",
    )


def _has_gpu_build() -> bool:
    return torch.version.cuda is not None or torch.version.hip is not None


def _problem() -> str:
    """Why PyTorch sees no GPU, in its own words where it has some."""
    if not _has_gpu_build():
        return f"PyTorch {torch.__version__} is built for the CPU only"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).split(". ")[0].rstrip(".")
    return "it reports no error"


def _gpus(count: int) -> str:
    return "no GPU" if count == 0 else "1 GPU" if count == 1 else f"{count} GPUs"
