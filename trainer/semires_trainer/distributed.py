"""Processes that train together: who we are, sums over all ranks, batch norm over the global batch, gradient averaging.

One process is the same code with sums over one rank. Started by torchrun, which sets RANK, WORLD_SIZE and LOCAL_RANK.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from semires_trainer.gpus import device_of
from semires_trainer.threads import available_cores

CPU = torch.device("cpu")
COLLECTIVE_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The processes of this run as one of them sees them."""

    rank: int = 0
    """Number of this process, 0 to size - 1."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number of this process on its machine: the index of its GPU."""
    device: torch.device = CPU
    """Where this process computes."""
    local_size: int = 1
    """Processes on this machine."""

    @property
    def is_main(self) -> bool:
        """Rank 0 writes files and reports."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """Number of machines; each has as many processes."""
        return self.size // self.local_size

    @property
    def is_leader(self) -> bool:
        """The first process of each machine writes what its machine needs."""
        return self.local_rank == 0

    @property
    def leaders(self) -> range:
        """Ranks of the leaders: torchrun numbers the processes machine by machine."""
        return range(0, self.size, self.local_size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over all ranks, in place; the same bits on every rank."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            self.sum(torch.zeros(1, device=self.device)).item()

    def any(self, flag: bool) -> bool:
        """True on every rank if it is true on one."""
        return bool(self.sum(torch.tensor([float(flag)], device=self.device)).item())

    def all(self, flag: bool) -> bool:
        """True on every rank if it is true on all."""
        return not self.any(not flag)

    def broadcast(self, value: Any, *, source: int = 0) -> Any:
        """Give every rank the (picklable, ours) `value` of rank `source`."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=source, device=self.device)
        return box[0]


@contextmanager
def joined_world(*, device: str, deterministic: bool) -> Iterator[World]:
    """Join the other ranks (as torchrun's environment tells), leave on exit. `deterministic` fixes the kernels."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    world = World(
        rank=int(os.environ.get("RANK", "0")),
        size=size,
        local_rank=local_rank,
        device=device_of(device, local_rank, local_size=local_size),
        local_size=local_size,
    )
    threads_before = torch.get_num_threads()
    fix_kernels(world, deterministic=deterministic)
    if size > 1:
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    try:
        yield world
    finally:
        if size > 1:
            dist.destroy_process_group()
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads_before)


def fix_kernels(world: World, *, deterministic: bool) -> None:
    """Choose threads and kernels. Sums depend on the number of threads, so `deterministic` uses one per process."""
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
        torch.backends.cuda.matmul.allow_tf32 = not deterministic
        torch.backends.cudnn.benchmark = not deterministic
    elif deterministic:
        torch.set_num_threads(1)
    elif world.size > 1:
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
        torch.set_num_threads(max(1, available_cores() // local_size))
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=world.device.type == "cuda")


class _SumOverRanks(torch.autograd.Function):
    """Differentiable all-reduce: the gradient of a sum over ranks is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class AllReduceBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the global batch on CPU, where `SyncBatchNorm` refuses to run."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) normalised with mean and variance over the B, H, W of all ranks (training) or running ones."""
        if not self.training:
            return super().forward(input)
        sum_over_ranks = cast("Callable[[Tensor], Tensor]", _SumOverRanks.apply)
        # Under bf16 autocast sums and the number of pixels need more than eight bits.
        wide = input if input.dtype == torch.float64 else input.float()
        total = sum_over_ranks(torch.cat([wide.sum((0, 2, 3)), wide.new_tensor([wide.numel() / wide.shape[1]])]))
        count, mean_C = total[-1].detach(), total[:-1] / total[-1].detach()
        centred = wide - mean_C[:, None, None]
        variance_C = sum_over_ranks(centred.square().sum((0, 2, 3))) / count
        self._track(mean_C.detach(), variance_C.detach() * (count / (count - 1)))
        scale_C = torch.rsqrt(variance_C + self.eps) * self.weight
        return (centred * scale_C[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _track(self, mean_C: Tensor, unbiased_variance_C: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, momentum)
        self.running_var.lerp_(unbiased_variance_C, momentum)
        self.num_batches_tracked += 1


def synchronize_batch_norm(model: nn.Module, world: World) -> nn.Module:
    """Replace batch norm by one over the global batch: SyncBatchNorm on GPUs, `AllReduceBatchNorm2d` on CPUs."""
    if world.size == 1:
        return model
    if world.device.type == "cuda":
        return cast("nn.Module", nn.SyncBatchNorm.convert_sync_batchnorm(model))
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            # Same parameters, buffers and names: only the forward pass differs.
            module.__class__ = AllReduceBatchNorm2d
    return model


def data_parallel(model: nn.Module, world: World) -> DistributedDataParallel:
    """DDP: gradients are averaged while backward runs.

    Every rank starts from the same file or seed and batch norm is synchronised, so buffers need no synchronisation;
    torch 2.15 renamed the option that says so.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    device_ids = [world.device] if world.device.type == "cuda" else None
    options: dict[str, Any] = {"device_ids": device_ids, "gradient_as_bucket_view": True, option: False}
    return DistributedDataParallel(model, **options)


def average_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Average gradients over ranks in one flat all-reduce, in the order of `parameters`.

    DDP rebuilds its buckets after the first step of a process, so a resumed run of 3 or more gloo ranks adds in another
    order and differs in the last bit; one flat buffer always adds in the same order.
    """
    if world.size == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    world.sum(flat)
    flat /= world.size
    for gradient, averaged in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(averaged.view_as(gradient))
