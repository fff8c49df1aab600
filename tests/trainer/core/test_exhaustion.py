"""Memory that runs out is told as what it is, whatever raises it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from semires_trainer.distributed import World
from semires_trainer.errors import GpuMemoryError, HostMemoryError, InfrastructureError, SemiresError
from semires_trainer.exhaustion import EVALUATION, LOADING, PROPOSALS, Activity, memory_errors, training_of

TORCH = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of 79.11 GiB of which 1.06 GiB is"
CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
NCCL = "NCCL error in: NCCLUtils.cpp:94. ncclUnhandledCudaError: Call to CUDA function failed. Cuda 2 'out of memory'"
GPU = World(rank=1, size=2, local_rank=1, device=torch.device("cuda", 1))


@pytest.fixture
def steps(harness: ModuleType) -> Activity:
    """Mutual learning with 4 + 4 images on two processes."""
    training = harness.resolved_of(harness.document_of(Path("data"), Path("out"))).training
    return training_of("train", training, processes=2)


def told(error: Exception, activity: Activity, world: World = GPU) -> SemiresError:
    with pytest.raises(SemiresError) as found, memory_errors(activity, world):
        raise error
    assert found.value.__cause__ is error
    return found.value


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(torch.OutOfMemoryError(TORCH), id="caching-allocator"),
        pytest.param(torch.OutOfMemoryError("Tried to allocate 2 GiB"), id="by-type-alone"),
        pytest.param(torch.AcceleratorError("CUDA error: out of memory"), id="driver"),
        pytest.param(RuntimeError(CUBLAS), id="cublas"),
        pytest.param(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), id="cudnn"),
        pytest.param(torch.distributed.DistBackendError(NCCL), id="nccl"),
    ],
)
def test_gpu_memory_names_the_micro_batch_in_use_and_the_next(error: Exception, steps: Activity) -> None:
    found = told(error, steps)

    assert isinstance(found, GpuMemoryError)
    assert (found.exit_code, found.micro_batch_in_use, found.micro_batch) == (6, 4, 2)
    assert str(found).startswith("spec.training.microBatch: the GPU of rank 1 (cuda:1) has too little memory for train")
    assert "4 images per forward pass" in str(found)
    assert "Set it to 2: accumulation keeps the global batch" in str(found)


def test_only_the_beginning_of_what_torch_says_is_quoted(steps: Activity) -> None:
    assert "Tried to allocate 2.00 GiB. Set it to 2" in str(told(torch.OutOfMemoryError(TORCH), steps))


def test_where_nothing_smaller_exists_something_else_is_advised(harness: ModuleType) -> None:
    training = harness.resolved_of(harness.document_of(Path("data"), Path("out"), microBatch=2)).training

    found = told(torch.OutOfMemoryError(TORCH), training_of("train", training, processes=2))

    assert isinstance(found, GpuMemoryError)
    assert (found.micro_batch_in_use, found.micro_batch) == (2, None)
    assert "No smaller micro-batch exists: use a GPU with more memory" in str(found)


@pytest.mark.parametrize(
    ("activity", "advice"),
    [
        pytest.param(LOADING, "nvidia-smi", id="loading"),
        pytest.param(EVALUATION, "nvidia-smi", id="evaluation"),
        pytest.param(PROPOSALS, r"pointsPerBatch: .*the proposals.*Halve it", id="proposals"),
    ],
)
def test_a_smaller_micro_batch_is_not_advised_where_it_would_not_help(activity: Activity, advice: str) -> None:
    with pytest.raises(GpuMemoryError, match=advice) as found, memory_errors(activity, GPU):
        raise torch.OutOfMemoryError(TORCH)

    assert found.value.micro_batch is found.value.micro_batch_in_use is None


def test_what_was_done_last_counts(steps: Activity) -> None:
    inner = memory_errors(EVALUATION, GPU)
    with pytest.raises(GpuMemoryError, match="for an evaluation") as found, memory_errors(steps, GPU), inner:
        raise torch.OutOfMemoryError(TORCH)

    assert found.value.micro_batch is None


def test_memory_of_the_machine_is_told_from_that_of_the_gpu(steps: Activity) -> None:
    found = told(MemoryError(), steps)

    assert isinstance(found, HostMemoryError)
    assert (found.exit_code, found.reason) == (1, "HostMemory")
    assert "this machine has too little memory for train steps" in str(found)
    assert "microBatch" not in str(found)


def test_a_tensor_too_large_for_the_machine_is_told(steps: Activity) -> None:
    """A real failure of torch's allocator, on a process that computes on the CPU: there a smaller micro-batch helps."""
    refused = pytest.raises(HostMemoryError, match=r"you tried to allocate \d+ bytes.*microBatch: 2")
    with refused, memory_errors(steps, World()):
        torch.empty(10**15)


def test_full_shared_memory_is_told(steps: Activity) -> None:
    error = RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    assert "spec.resources.shm: " in str(told(error, steps))


def test_a_lost_loader_process_is_an_error_of_the_infrastructure(steps: Activity) -> None:
    found = told(RuntimeError("DataLoader worker (pid 9301) is killed by signal: Killed. "), steps)

    assert isinstance(found, InfrastructureError)
    assert "killed by signal: Killed" in str(found)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), id="bug"),
        pytest.param(FileNotFoundError("memory"), id="file"),
        pytest.param(ValueError("out of memory"), id="no-runtime-error"),
    ],
)
def test_other_errors_pass(error: Exception, steps: Activity) -> None:
    with pytest.raises(type(error)) as found, memory_errors(steps, GPU):
        raise error

    assert found.value is error
