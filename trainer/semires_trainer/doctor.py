"""Is this machine fit for a run? Facts are gathered once; what they mean is decided by pure functions."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from semires_trainer.config import Resolved
from semires_trainer.inputs import missing_inputs
from semires_trainer.threads import available_cores

Status = Literal["OK", "WARN", "FAIL"]

MINIMUM_PYTHON = (3, 11)
REQUIRED = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "safetensors",
    "pycocotools",
    "pydantic",
    "pillow",
)
OPTIONAL = {
    "segment-anything": "proposals.generator SAM needs it",
    "scikit-image": "proposals.generator Felzenszwalb needs it",
    "matplotlib": "training curves and overlays need it",
    "tensorboard": "TensorBoard events need it",
}
INFRASTRUCTURE_EXIT = 150
GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    exit_code: int = INFRASTRUCTURE_EXIT
    """Exit code of `semires doctor` if this check fails."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """One visible GPU."""

    name: str
    memory_bytes: int
    bf16: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What was found on this machine; nothing in here is an opinion."""

    python: tuple[int, int, int]
    packages: dict[str, str | None]
    """Distribution name to version, None where it is not installed."""
    import_error: str
    """What `import torch, torchvision` and a torchvision operator said; empty if they work together."""
    gpus: tuple[Gpu, ...]
    cpu_cores: int
    memory_bytes: int
    """Memory of this machine, or of the container where that is less."""
    folder: Path
    """Where results would go, or its nearest parent that exists."""
    folder_writable: bool
    disk_free_bytes: int
    shm_free_bytes: int | None
    """Free shared memory, which loader workers use; None where there is no such folder."""


def gather_facts(output: Path) -> Facts:
    """Look at this machine; `output` is where results would go (it need not exist). Imports torch."""
    folder = next(parent for parent in (output.absolute(), *output.absolute().parents) if parent.is_dir())
    error = _import_error()
    shm = Path("/dev/shm")
    return Facts(
        python=sys.version_info[:3],
        packages={name: _version(name) for name in (*REQUIRED, *OPTIONAL)},
        import_error=error,
        gpus=() if error else _gpus(),
        cpu_cores=available_cores(),
        memory_bytes=_memory_bytes(),
        folder=folder,
        folder_writable=os.access(folder, os.W_OK),
        disk_free_bytes=shutil.disk_usage(folder).free,
        shm_free_bytes=shutil.disk_usage(shm).free if shm.is_dir() else None,
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_error() -> str:
    """The first line of what goes wrong when torch and torchvision meet; a mismatch shows only in use."""
    try:
        torch = importlib.import_module("torch")
        ops = importlib.import_module("torchvision.ops")
        ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _gpus() -> tuple[Gpu, ...]:
    import torch

    if not torch.cuda.is_available():
        return ()
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(Gpu(name=d.name, memory_bytes=d.total_memory, bf16=d.major >= 8) for d in devices)


def _memory_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            return min(total, int(text))
    return total


def diagnose(facts: Facts) -> list[Check]:
    """What the facts mean for training, one check a line."""
    return [
        check_python(facts.python),
        *check_packages(facts),
        check_torch_pair(facts),
        *check_gpus(facts.gpus),
        check_cores(facts.cpu_cores),
        check_memory(facts.memory_bytes),
        check_disk(facts),
        *check_shared_memory(facts.shm_free_bytes),
    ]


def check_python(version: tuple[int, int, int]) -> Check:
    """Python is recent enough."""
    text = ".".join(map(str, version))
    if version[:2] >= MINIMUM_PYTHON:
        return Check(name="Python", status="OK", detail=f"{text} ({platform.machine()})")
    needed = ".".join(map(str, MINIMUM_PYTHON))
    return Check(name="Python", status="FAIL", detail=text, remedy=f"Use Python {needed} or newer.")


def check_packages(facts: Facts) -> list[Check]:
    """Everything that training imports is installed."""
    missing = [name for name in REQUIRED if facts.packages.get(name) is None]
    checks = [
        Check(name="Packages", status="OK", detail=", ".join(f"{n} {facts.packages[n]}" for n in REQUIRED))
        if not missing
        else Check(
            name="Packages",
            status="FAIL",
            detail=f"not installed: {', '.join(missing)}",
            remedy="Install the extra: pip install 'semires[trainer]'.",
        )
    ]
    for name, reason in OPTIONAL.items():
        if facts.packages.get(name) is None:
            remedy = f"pip install {name}"
            checks.append(Check(name=name, status="WARN", detail=f"not installed; {reason}", remedy=remedy))
    return checks


def check_torch_pair(facts: Facts) -> Check:
    """The torchvision that is installed was built for the torch that is installed."""
    pair = f"torch {facts.packages.get('torch')}, torchvision {facts.packages.get('torchvision')}"
    if not facts.import_error:
        return Check(name="torch/torchvision", status="OK", detail=pair)
    return Check(
        name="torch/torchvision",
        status="FAIL",
        detail=f"{pair}: {facts.import_error}",
        remedy="Install a matching pair in one command: pip install --force-reinstall torch torchvision",
    )


def check_gpus(gpus: Sequence[Gpu]) -> list[Check]:
    """Which GPUs are visible, and whether they compute in bfloat16."""
    if not gpus:
        remedy = "Enough for the quickstart; RefCOCO wants a GPU and a CUDA build of torch."
        return [Check(name="GPU", status="WARN", detail="none visible, training would use the CPU", remedy=remedy)]
    names = ", ".join(f"{gpu.name} ({gpu.memory_bytes / GIB:.0f} GiB)" for gpu in gpus)
    checks = [Check(name="GPU", status="OK", detail=f"{len(gpus)}: {names}")]
    slow = [gpu.name for gpu in gpus if not gpu.bf16]
    if slow:
        remedy = "training.precision Auto uses FP32 there."
        checks.append(Check(name="bf16", status="WARN", detail=f"not on {', '.join(slow)}", remedy=remedy))
    else:
        checks.append(Check(name="bf16", status="OK", detail="on every GPU"))
    return checks


def check_cores(cores: int) -> Check:
    """Loader workers need cores of their own."""
    if cores >= 2:
        return Check(name="CPU", status="OK", detail=f"{cores} cores")
    return Check(
        name="CPU",
        status="WARN",
        detail="1 core",
        remedy="Loading and training share it; give 4 cores a GPU.",
    )


def check_memory(memory_bytes: int) -> Check:
    """Memory for the models and the loader workers."""
    detail = f"{memory_bytes / GIB:.1f} GiB"
    if memory_bytes >= 8 * GIB:
        return Check(name="Memory", status="OK", detail=detail)
    if memory_bytes >= 4 * GIB:
        remedy = "Enough for the quickstart only; SwinBase needs 16 GiB and more."
        return Check(name="Memory", status="WARN", detail=detail, remedy=remedy)
    return Check(name="Memory", status="FAIL", detail=detail, remedy="Give the run at least 4 GiB.")


def check_disk(facts: Facts) -> Check:
    """Room for checkpoints (3.3 GB each with SwinBase) and proposals, in a folder that can be written."""
    detail = f"{facts.disk_free_bytes / GIB:.1f} GiB free at {facts.folder}"
    if not facts.folder_writable:
        remedy = "Choose another --output, or allow this user to write there."
        return Check(name="Disk", status="FAIL", detail=f"{facts.folder} cannot be written", remedy=remedy)
    if facts.disk_free_bytes >= 20 * GIB:
        return Check(name="Disk", status="OK", detail=detail)
    if facts.disk_free_bytes >= 2 * GIB:
        remedy = "Enough for the quickstart; a SwinBase run keeps about 12 GiB of checkpoints and models."
        return Check(name="Disk", status="WARN", detail=detail, remedy=remedy)
    return Check(name="Disk", status="FAIL", detail=detail, remedy="Free at least 2 GiB.")


def check_shared_memory(free_bytes: int | None) -> list[Check]:
    """Loader workers hand batches over in shared memory; containers often have 64 MiB."""
    if free_bytes is None:
        return []
    detail = f"{free_bytes / GIB:.2f} GiB free"
    if free_bytes >= GIB:
        return [Check(name="Shared memory", status="OK", detail=detail)]
    remedy = "Give the container more (docker run --shm-size 8g), or set training.workers: 0."
    return [Check(name="Shared memory", status="WARN", detail=detail, remedy=remedy)]


def check_device(device: str, gpus: Sequence[Gpu], *, nproc: int = 1) -> Check:
    """The GPUs that a job asks for are there."""
    if device != "CUDA":
        return Check(name="training.device", status="OK", detail=f"{device} on this machine")
    if len(gpus) >= nproc:
        return Check(name="training.device", status="OK", detail=f"CUDA, {nproc} of {len(gpus)} GPUs")
    return Check(
        name="training.device",
        status="FAIL",
        detail=f"CUDA with {nproc} processes, but {len(gpus)} GPUs are visible",
        remedy="Set training.device: Auto, lower --nproc, or look at the driver with nvidia-smi.",
    )


def check_job(resolved: Resolved, facts: Facts, *, processes: int) -> list[Check]:
    """What a job needs of this machine: its files, its device."""
    missing = [
        Check(name="Job", status="FAIL", detail=str(error), exit_code=error.exit_code)
        for error in missing_inputs(resolved)
    ]
    found = missing or [Check(name="Job", status="OK", detail=f"{resolved.name}: every local file is there")]
    return [*found, check_device(resolved.training.device, facts.gpus, nproc=processes)]


def exit_code_of(checks: Sequence[Check]) -> int:
    """0 if nothing failed; else the lowest code of a failed check (a wrong manifest before a missing GPU)."""
    return min((check.exit_code for check in checks if check.status == "FAIL"), default=0)
