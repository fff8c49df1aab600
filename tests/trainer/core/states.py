"""Small training states for the tests of checkpoints, and a disk with little room.

Loaded by conftest.py and by checkpoint_faults.py, so it knows nothing of pytest.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from semires_trainer.checkpoint import TrainingState, contents_of, optimizer_tensors, save_checkpoint
from semires_trainer.checkpoint_folders import Progress

PROGRESS = Progress(
    stage="train",
    step=7,
    best_oiou=12.5,
    best_step=6,
    evaluated_step=6,
    oiou=12.5,
    epochs_without_gain=0,
    skipped_steps=(2, 3),
)


def network(*, width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))


def state_after(
    steps: int, *, seed: int = 0, width: int = 4, identity: str = "one", progress: Progress = PROGRESS
) -> TrainingState:
    """A state whose optimizer has moments and whose batch norm has statistics."""
    torch.manual_seed(seed)
    student, teacher = network(width=width), network(width=width)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        student(torch.randn(2, 1, 8, 8)).square().mean().backward()
        optimizer.step()
    return TrainingState(
        student=student,
        teacher=teacher,
        optimizer=optimizer,
        progress=progress,
        identity=identity,
        steps_per_epoch=3,
    )


def save(root: Path, state: TrainingState, *, number: int) -> Path:
    return save_checkpoint(root, contents_of(state), number=number)


def difference(first: TrainingState, second: TrainingState) -> list[str]:
    """What is not the same in two states, bit by bit."""
    assert first.teacher is not None
    assert second.teacher is not None
    pairs = {
        "student": (first.student.state_dict(), second.student.state_dict()),
        "teacher": (first.teacher.state_dict(), second.teacher.state_dict()),
        "optimizer": (optimizer_tensors(first), optimizer_tensors(second)),
    }
    found = [] if first.progress == second.progress else ["progress"]
    for part, (one, other) in pairs.items():
        found += [f"{part}: names"] if one.keys() != other.keys() else []
        found += [f"{part}/{name}" for name in one.keys() & other.keys() if not torch.equal(one[name], other[name])]
    return found


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Writing to a file beyond `num_bytes` fails, as on a full disk, for anybody (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
