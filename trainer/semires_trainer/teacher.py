"""The mean teacher: teacher <- decay * teacher + (1 - decay) * student after every optimizer step (Eq. 3).

Floating parameters and floating buffers (running statistics) are averaged in float32 or wider by one
multi-tensor operation; integer and boolean buffers are copied (the official code averages and truncates them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a module keeps a tensor; stays right if it is replaced, as `Module.to` does to buffers."""

    home: Mapping[str, Tensor | None]
    name: str

    def tensor(self) -> Tensor:
        tensor = self.home[self.name]
        if tensor is None:
            raise ValueError(f"the tensor {self.name!r} was removed from a model that the teacher follows")
        return tensor.detach()


class EmaTeacher:
    """Keeps `teacher` the moving average of `student`: modules of one architecture, without DDP's wrapper."""

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        """Pair up the tensors of the two state dicts, once.

        Raises ValueError if names or shapes differ, or if the teacher holds float16 or bfloat16 tensors: a
        step of (1 - decay) = 0.004 is below their resolution and would be lost.
        """
        self.teacher = teacher
        teachers, students = _slots(teacher), _slots(student)
        _check(teachers, students)
        averaged = [name for name, slot in teachers.items() if slot.tensor().is_floating_point()]
        copied = [name for name in teachers if name not in set(averaged)]
        self._averaged = [(teachers[name], students[name]) for name in averaged]
        self._copied = [(teachers[name], students[name]) for name in copied]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the teacher by (1 - decay) towards the student. Raises ValueError unless 0 <= decay <= 1."""
        if not 0 <= decay <= 1:
            raise ValueError(f"EMA decay must be in [0, 1], got {decay}")
        teachers = [slot.tensor() for slot, _ in self._averaged]
        sources = [source.tensor() for _, source in self._averaged]
        students = [source.to(own.dtype) for own, source in zip(teachers, sources, strict=True)]
        torch._foreach_lerp_(teachers, students, 1 - decay)
        for slot, source in self._copied:
            slot.tensor().copy_(source.tensor())


def _slots(module: nn.Module) -> dict[str, _Slot]:
    """The tensors of the state dict by name, tied ones once; buffers that are not saved are constants."""
    found: dict[str, _Slot] = {}
    seen: set[int] = set()
    for prefix, owner in module.named_modules():
        unsaved = owner._non_persistent_buffers_set
        for home, skipped in ((owner._parameters, frozenset()), (owner._buffers, unsaved)):
            for name, tensor in home.items():
                if tensor is not None and name not in skipped and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found[f"{prefix}.{name}" if prefix else name] = _Slot(home, name)
    return found


def _check(teachers: Mapping[str, _Slot], students: Mapping[str, _Slot]) -> None:
    if foreign := sorted(teachers.keys() ^ students.keys()):
        names = ", ".join(foreign[:10])
        raise ValueError(f"teacher and student differ in {len(foreign)} tensors, the first are {names}")
    for name, slot in teachers.items():
        own, source = slot.tensor(), students[name].tensor()
        if own.shape != source.shape:
            raise ValueError(f"{name}: teacher has shape {tuple(own.shape)}, student {tuple(source.shape)}")
        if own.is_floating_point() and own.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name}: {own.dtype} cannot hold a moving average. Keep the teacher in float32")
