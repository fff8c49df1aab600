"""Memory that runs out, on a GPU or on the host: recognised whatever raised it, told with what to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from semires_trainer.config import ResolvedTraining
from semires_trainer.distributed import World
from semires_trainer.errors import GpuMemoryError, HostMemoryError, InfrastructureError, SemiresError
from semires_trainer.schedule import StageName, images_per_pass, smaller_micro_batch

GPU_SIGNS = ("out of memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed", "cusolver_status_alloc_failed")
"""In the text of a RuntimeError, in small letters. torch.OutOfMemoryError comes from the caching allocator only: the
driver ("CUDA error: out of memory"), cuBLAS, cuDNN and NCCL have errors of their own."""
HOST_SIGNS = ("defaultcpuallocator", "cannot allocate memory")
SHARED_SIGNS = ("out of shared memory", "shared memory(shm)")
LOST_WORKER = "DataLoader worker (pid"

MORE_GPU_MEMORY = "use a GPU with more memory, precision: BF16, a smaller spec.model.imageSize or backbone"


@dataclass(frozen=True, kw_only=True, slots=True)
class Activity:
    """What was done when memory ran out, and what makes it need less."""

    doing: str
    """Completes "too little memory for ..."."""
    remedy: str
    field: str = ""
    micro_batch: int | None = None
    """Images per forward pass; None where it is not the micro-batch that decides."""
    next_micro_batch: int | None = None
    """The `spec.training.microBatch` to try next; None: nothing smaller exists, or it would not help."""


LOADING = Activity(
    doing="loading the networks",
    remedy=f"Look with nvidia-smi for others on this GPU; {MORE_GPU_MEMORY}",
)
PROPOSALS = Activity(
    doing="the proposals",
    field="spec.proposals.sam.pointsPerBatch",
    remedy="Halve it: the masks stay the same",
)
EVALUATION = Activity(
    doing="an evaluation",
    remedy=f"Look with nvidia-smi for others on this GPU; {MORE_GPU_MEMORY}",
)


def training_of(stage: StageName, training: ResolvedTraining, *, processes: int) -> Activity:
    """The steps of a stage."""
    used = images_per_pass(training, stage, processes=processes)
    smaller = smaller_micro_batch(training, stage, processes=processes)
    images = "1 image" if used == 1 else f"{used} images"
    remedy = (
        f"Set it to {smaller}: accumulation keeps the global batch, and the run goes on where it stopped"
        if smaller
        else f"No smaller micro-batch exists: {MORE_GPU_MEMORY}"
    )
    return Activity(
        doing=f"{stage} steps with {images} per forward pass",
        field="spec.training.microBatch",
        remedy=remedy,
        micro_batch=used,
        next_micro_batch=smaller,
    )


@contextmanager
def memory_errors(activity: Activity, world: World) -> Iterator[None]:
    """Turn whatever says that memory ran out into GpuMemoryError or HostMemoryError; the innermost activity counts."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        told = translate(error, activity, world)
        if told is None:
            raise
        raise told from error


def translate(error: Exception, activity: Activity, world: World) -> SemiresError | None:
    """The user's error that `error` is; None if it is something else."""
    text = str(error)
    signs = text.lower()
    if any(sign in signs for sign in SHARED_SIGNS):
        return HostMemoryError(
            f"the shared memory that loader processes use is full: {brief(text)}",
            field="spec.resources.shm",
            remedy="Enlarge it (/dev/shm on this machine), or lower spec.training.workers",
        )
    if isinstance(error, MemoryError) or any(sign in signs for sign in HOST_SIGNS):
        return _host_memory(activity, world, text)
    if isinstance(error, OSError):
        return None
    if LOST_WORKER in text:
        return InfrastructureError(
            f"a loader process of rank {world.rank} was lost: {brief(text)}",
            remedy="If memory ran out: more memory, or fewer spec.training.workers; start again to go on from the last "
            "checkpoint",
        )
    if isinstance(error, torch.OutOfMemoryError) or any(sign in signs for sign in GPU_SIGNS):
        return GpuMemoryError(
            f"the GPU of rank {world.rank} ({world.device}) has too little memory for {activity.doing}: {brief(text)}",
            field=activity.field,
            remedy=activity.remedy,
            micro_batch=activity.next_micro_batch,
            micro_batch_in_use=activity.micro_batch,
        )
    return None


def _host_memory(activity: Activity, world: World, text: str) -> HostMemoryError:
    smaller = activity.next_micro_batch if world.device.type == "cpu" else None
    instead = f", or set spec.training.microBatch: {smaller}" if smaller else ""
    return HostMemoryError(
        f"this machine has too little memory for {activity.doing} on rank {world.rank}: {brief(text) or 'MemoryError'}",
        field="spec.resources.memory",
        remedy=f"Give it more, lower spec.training.workers{instead}; the run then goes on from its last checkpoint",
    )


def brief(text: str) -> str:
    """The first two sentences of what a library says, without the traceback of a loader process."""
    last = text.strip().splitlines()[-1] if "Original Traceback" in text else text
    return " ".join(re.split(r"(?<=[.!?])\s+", " ".join(last.split()))[:2]).rstrip(".")
