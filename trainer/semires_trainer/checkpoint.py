"""What a training checkpoint holds: models, optimizer, progress; written exactly, loaded exactly.

The folder around it is described in `checkpoint_folders`. Randomness needs no state: every draw is a function of
(seed, stage, step, rank).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from semires_trainer.atomic import file_sha256, replace_directory
from semires_trainer.checkpoint_folders import (
    MANIFEST,
    SCHEMA_VERSION,
    STATE,
    Progress,
    folder_of,
    is_valid,
    manifest_text,
    read_progress,
)
from semires_trainer.errors import WeightsError
from semires_trainer.tensor_file import Digest, write_tensors

STUDENT, TEACHER, OPTIMIZER = "student.safetensors", "teacher.safetensors", "optimizer.safetensors"


@dataclass(kw_only=True)
class TrainingState:
    """The objects a checkpoint belongs to. `teacher` is absent during burn-in."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a checkpoint holds, apart from the objects it belongs to."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """By file, by name."""
    state: Mapping[str, Any]
    """state.json, as JSON gives it back."""

    @property
    def bytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.nbytes for tensors in self.tensors.values() for tensor in tensors.values())


def contents_of(state: TrainingState) -> Contents:
    """The state's own tensors: the next step changes them."""
    teacher = {} if state.teacher is None else {TEACHER: state.teacher.state_dict()}
    progress = {**asdict(state.progress), "skipped_steps": list(state.progress.skipped_steps)}
    place = {"epoch": state.progress.step // state.steps_per_epoch, "steps_per_epoch": state.steps_per_epoch}
    return Contents(
        tensors={STUDENT: state.student.state_dict(), **teacher, OPTIMIZER: optimizer_tensors(state)},
        state={"schemaVersion": SCHEMA_VERSION, "identity": state.identity, **place, **progress},
    )


class HostBuffers:
    """Room in host memory for one copy of a state, made at the first and kept for the next ones.

    Beside a GPU it is page-locked, so that all copies are under way at once and are waited for once.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def copy(self, contents: Contents) -> Contents:
        """A copy that later steps don't change; it is overwritten by the next call."""
        copies = {
            file: {name: self._copy((file, name), tensor.detach()) for name, tensor in tensors.items()}
            for file, tensors in contents.tensors.items()
        }
        for device in {tensor.device for tensors in contents.tensors.values() for tensor in tensors.values()}:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        return replace(contents, tensors=copies)

    def _copy(self, place: tuple[str, str], tensor: Tensor) -> Tensor:
        buffer = self._buffers.get(place)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            # Strides are kept: the copy is one run of bytes; channels-last is undone when the file is written.
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._buffers[place] = buffer
        return buffer.copy_(tensor, non_blocking=True)


def save_checkpoint(root: Path, contents: Contents, *, number: int) -> Path:
    """Write `root/step-<number>` atomically and return it; a valid one that holds this progress is kept as it is.

    Tensors are on the CPU. Raises OSError; then an earlier folder of this number is as it was.
    """
    final = folder_of(root, number)
    if is_valid(final) and json.loads((final / STATE).read_text(encoding="utf-8")) == contents.state:
        return final
    with replace_directory(final) as folder:
        digests = {name: write_tensors(folder / name, tensors) for name, tensors in contents.tensors.items()}
        state = folder / STATE
        state.write_text(json.dumps(contents.state, indent=2) + "\n", encoding="utf-8")
        digests[STATE] = Digest(sha256=file_sha256(state), bytes=state.stat().st_size)
        manifest = {name: asdict(digest) for name, digest in sorted(digests.items())}
        (folder / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")
    return final


def load_checkpoint(folder: Path, state: TrainingState) -> None:
    """Restore models, optimizer and progress from a verified checkpoint, in place.

    Raises WeightsError, before anything is changed, if it belongs to another run or does not fit the model.
    """
    progress = read_progress(folder, identity=state.identity)
    models = {STUDENT: state.student} | ({} if state.teacher is None else {TEACHER: state.teacher})
    try:
        for name, model in models.items():
            _check_fit(folder / name, {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})
        _check_moments(folder / OPTIMIZER, state)
    except (SafetensorError, OSError, _Misfit) as error:
        raise WeightsError(
            f"{folder} does not fit this model: {error}",
            remedy="Use an empty output, or the manifest the run was started with",
        ) from error
    for name, model in models.items():
        model.load_state_dict(load_file(folder / name))
    restore_optimizer(state, load_file(folder / OPTIMIZER))
    state.progress = progress


class _Misfit(Exception):
    """Tensors of a file are not those that are needed."""


def _shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(file, framework="pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def _check_fit(file: Path, wanted: Mapping[str, tuple[int, ...]]) -> None:
    found = _shapes_in(file)
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name):
            raise _Misfit(f"{file.name} has {name} {found.get(name)}, wanted is {wanted.get(name)}")


def _check_moments(file: Path, state: TrainingState) -> None:
    """Each tensor belongs to a parameter of the student and is a number or of the parameter's shape."""
    shapes = {name: tuple(parameter.shape) for parameter, name in state.parameter_names.items()}
    for name, shape in _shapes_in(file).items():
        wanted = shapes.get(name.rpartition("/")[0])
        if wanted is None:
            raise _Misfit(f"{file.name} has {name}, there is no such parameter")
        if shape not in ((), wanted):
            raise _Misfit(f"{file.name} has {name} {shape}, the parameter is {wanted}")
