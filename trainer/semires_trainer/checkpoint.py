"""Training checkpoints: one directory per step, written whole, verified before use.

    checkpoints/step-00000120/
        student.safetensors  teacher.safetensors  optimizer.safetensors
        state.json          stage, step, best metric, counters of the policies
        manifest.json       sha256 and size of the others; written last

A directory is written beside its final name, synced and renamed, so a final name is always whole. Randomness needs no
state: every draw is a function of (seed, stage, step, rank).
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from semires_trainer.atomic import REPLACED, file_sha256, replace_directory
from semires_trainer.errors import WeightsError

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
STATE = "state.json"
_NAME = re.compile(r"step-(\d+)(\.replaced)?")

Stage = Literal["burn-in", "train"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands: all it needs to go on besides tensors."""

    stage: Stage
    """The stage the step counts in."""
    step: int = 0
    """Optimizer steps done in this stage."""
    best_oiou: float | None = None
    """Best oIoU on the selection split in this stage, percent."""
    best_step: int | None = None
    """Step of the best oIoU."""
    evaluated_step: int | None = None
    """Step of the last evaluation: tells an epoch end that is evaluated from one that is not yet."""
    epochs_without_gain: int = 0
    """Evaluations since the best one (patience)."""
    skipped_steps: tuple[int, ...] = ()
    """Steps of this stage whose loss was not finite and which were left out."""
    finished: bool = False
    """The stage is done."""

    def past(self, stage: Stage) -> bool:
        """Whether `stage` is done."""
        return self.finished if stage == self.stage else stage == "burn-in"

    def with_evaluation(self, oiou: float) -> Progress:
        """The progress after an evaluation gave `oiou` at this step."""
        if self.best_oiou is None or oiou > self.best_oiou:
            return replace(self, best_oiou=oiou, best_step=self.step, evaluated_step=self.step, epochs_without_gain=0)
        return replace(self, evaluated_step=self.step, epochs_without_gain=self.epochs_without_gain + 1)


@dataclass(kw_only=True)
class TrainingState:
    """The objects a checkpoint holds. `teacher` is absent during burn-in."""

    student: nn.Module
    teacher: nn.Module | None
    optimizer: torch.optim.Optimizer
    progress: Progress
    identity: str
    """Hash of what is trained: a checkpoint of another run is refused."""
    parameter_names: dict[nn.Parameter, str] = field(init=False)

    def __post_init__(self) -> None:
        self.parameter_names = {parameter: name for name, parameter in self.student.named_parameters()}


def optimizer_tensors(state: TrainingState) -> dict[str, Tensor]:
    """The optimizer's tensors as `<parameter>/<key>`, e.g. `decoder.conv.weight/exp_avg`."""
    return {
        f"{state.parameter_names[cast('nn.Parameter', parameter)]}/{key}": value
        for parameter, values in state.optimizer.state.items()
        for key, value in values.items()
    }


def restore_optimizer(state: TrainingState, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors written by `optimizer_tensors` back, on each parameter's device."""
    parameters = {name: parameter for parameter, name in state.parameter_names.items()}
    state.optimizer.state.clear()
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        parameter = parameters[parameter_name]
        # Adam's step counter stays on the CPU unless the kernel is fused; load_state_dict follows the same rule.
        device = parameter.device if key != "step" or state.optimizer.defaults.get("fused") else tensor.device
        state.optimizer.state[parameter][key] = tensor.to(device)


def save_checkpoint(root: Path, state: TrainingState, *, number: int) -> Path:
    """Write `root/step-<number>` atomically and return it; a valid one that holds this progress is kept as it is."""
    final = root / f"step-{number:08d}"
    if is_valid(final) and json.loads((final / STATE).read_text(encoding="utf-8")) == _content_of(state):
        return final
    with replace_directory(final) as folder:
        _write_content(folder, state)
    return final


def _content_of(state: TrainingState) -> dict[str, Any]:
    """What state.json holds, as JSON gives it back."""
    progress = {**asdict(state.progress), "skipped_steps": list(state.progress.skipped_steps)}
    return {"schemaVersion": SCHEMA_VERSION, "identity": state.identity, **progress}


def _write_content(folder: Path, state: TrainingState) -> None:
    save_file(_cpu(state.student.state_dict()), folder / "student.safetensors")
    if state.teacher is not None:
        save_file(_cpu(state.teacher.state_dict()), folder / "teacher.safetensors")
    save_file(_cpu(optimizer_tensors(state)), folder / "optimizer.safetensors")
    (folder / STATE).write_text(json.dumps(_content_of(state), indent=2) + "\n", encoding="utf-8")
    files = sorted(folder.iterdir())
    manifest = {path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size} for path in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def is_valid(folder: Path) -> bool:
    """True if every file of the checkpoint is there and has the size and sha256 that its manifest says."""
    return fault_of(folder) is None


def fault_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if nothing is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, wanted in manifest.items():
            path = folder / name
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != wanted["bytes"] or file_sha256(path) != wanted["sha256"]:
                return f"{path} does not have the sha256 its manifest says"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{folder / MANIFEST} cannot be read ({error})"
    if STATE not in manifest or "student.safetensors" not in manifest:
        return f"{folder / MANIFEST} does not list {STATE} and student.safetensors"
    return None


def checkpoints_of(root: Path) -> list[Path]:
    """All checkpoint directories under `root`, oldest first, valid or not."""
    folders = [path for path in root.glob("step-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(folders, key=lambda path: (number_of(path), not path.name.endswith(REPLACED)))


def newest_valid(root: Path) -> Path | None:
    """The newest checkpoint that verifies; damaged ones are named in the log and passed over."""
    for folder in reversed(checkpoints_of(root)):
        fault = fault_of(folder)
        if fault is None:
            return folder
        logger.warning("Checkpoint %s is damaged and passed over: %s.", folder, fault)
    return None


def read_progress(folder: Path, *, identity: str) -> Progress:
    """The progress a checkpoint holds; a checkpoint of another run (other training sections) is refused."""
    content = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if content.pop("schemaVersion", None) != SCHEMA_VERSION:
        raise WeightsError(
            f"{folder} was written by another version",
            remedy="Use the version that wrote it, or start in another output",
        )
    found = content.pop("identity")
    if found != identity:
        raise WeightsError(
            f"{folder} belongs to another training configuration ({found[:12]}, this one is {identity[:12]})",
            field="spec.output",
            remedy="Choose another output, or restore the manifest the run was started with",
        )
    return Progress(**{**content, "skipped_steps": tuple(content["skipped_steps"])})


def load_checkpoint(folder: Path, state: TrainingState) -> None:
    """Restore models, optimizer and progress from a verified checkpoint, in place."""
    progress = read_progress(folder, identity=state.identity)
    try:
        state.student.load_state_dict(load_file(folder / "student.safetensors"))
        if state.teacher is not None:
            state.teacher.load_state_dict(load_file(folder / "teacher.safetensors"))
        restore_optimizer(state, load_file(folder / "optimizer.safetensors"))
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise WeightsError(
            f"{folder} does not fit this model: {str(error).splitlines()[0]}",
            remedy="Use an empty output, or the manifest the run was started with",
        ) from error
    state.progress = progress


def prune_checkpoints(root: Path, *, keep_last: int, keep_numbers: Container[int] = ()) -> None:
    """Delete old checkpoints except the newest `keep_last` and those with a number in `keep_numbers`.

    Nothing is deleted unless one of the newest is valid; leftovers of interrupted writes are removed.
    """
    for leftover in root.glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    folders = checkpoints_of(root)
    newest = folders[-max(1, keep_last) :]
    doomed = [path for path in folders if path not in newest and number_of(path) not in keep_numbers]
    if not doomed or not any(is_valid(path) for path in reversed(newest)):
        return
    for path in doomed:
        shutil.rmtree(path)


def number_of(folder: Path) -> int:
    """The step number in a checkpoint's name; ValueError if it is not one."""
    match = _NAME.fullmatch(folder.name)
    if match is None:
        raise ValueError(f"{folder} is no checkpoint")
    return int(match[1])
