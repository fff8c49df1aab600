"""What a training checkpoint holds: models, optimizer, progress; written exactly, loaded exactly.

The folder around it is described in `checkpoint_folders`. Randomness needs no state: every draw is a function of
(seed, stage, step, rank).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from semires_trainer.atomic import file_sha256, replace_directory
from semires_trainer.checkpoint_folders import (
    MANIFEST,
    SCHEMA_VERSION,
    STATE,
    Progress,
    folder_of,
    is_valid,
    read_progress,
)
from semires_trainer.errors import WeightsError


@dataclass(kw_only=True)
class TrainingState:
    """The objects a checkpoint holds. `teacher` is absent during burn-in."""

    student: nn.Module
    teacher: nn.Module | None
    optimizer: torch.optim.Optimizer
    progress: Progress
    identity: str
    """Hash of what is trained: a checkpoint of another run is refused."""
    steps_per_epoch: int
    """Of the stage: with it a checkpoint tells its epoch."""
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
    final = folder_of(root, number)
    if is_valid(final) and json.loads((final / STATE).read_text(encoding="utf-8")) == _content_of(state):
        return final
    with replace_directory(final) as folder:
        _write_content(folder, state)
    return final


def _content_of(state: TrainingState) -> dict[str, Any]:
    """What state.json holds, as JSON gives it back."""
    progress = {**asdict(state.progress), "skipped_steps": list(state.progress.skipped_steps)}
    epoch = state.progress.step // state.steps_per_epoch
    return {"schemaVersion": SCHEMA_VERSION, "identity": state.identity, "epoch": epoch, **progress}


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
