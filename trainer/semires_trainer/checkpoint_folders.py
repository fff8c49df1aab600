"""Training checkpoints as folders: where they lie, whether they are whole, what they tell, which are kept.

    checkpoints/step-00000120/
        student.safetensors  teacher.safetensors  optimizer.safetensors
        state.json          stage, step, epoch, best metric, counters of the policies
        manifest.json       sha256 and size of the others; written last

A folder is written beside its final name, synced and renamed, so a final name is always whole. What is in the tensors
is the business of `checkpoint`: this module needs no torch.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import uuid
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from semires_trainer.atomic import REPLACED, file_sha256
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
    oiou: float | None = None
    """oIoU of the last evaluation, percent."""
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
        evaluated = replace(self, oiou=oiou, evaluated_step=self.step)
        if self.best_oiou is None or oiou > self.best_oiou:
            return replace(evaluated, best_oiou=oiou, best_step=self.step, epochs_without_gain=0)
        return replace(evaluated, epochs_without_gain=self.epochs_without_gain + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A checkpoint in a few words, for ledgers and progress pages."""

    number: int
    """Optimizer steps of the whole run: the number in the folder's name."""
    stage: Stage
    step: int
    """Optimizer steps of the stage."""
    epoch: int
    """Whole epochs of the stage."""
    steps_per_epoch: int
    best_oiou: float | None
    """Best oIoU on the selection split in this stage, percent."""
    oiou: float | None
    """That at this very step; None if it was not evaluated."""
    finished: bool
    """The stage is done."""


def folder_of(root: Path, number: int) -> Path:
    """Where the checkpoint after `number` steps of the run lies."""
    return root / f"step-{number:08d}"


def is_valid(folder: Path) -> bool:
    """True if every file of the checkpoint is there and has the size and sha256 that its manifest says."""
    return fault_of(folder) is None


def fault_of(folder: Path, *, with_content: bool = True) -> str | None:
    """What is wrong with a checkpoint, in words; None if nothing is. Without the content only names and sizes count."""
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
        if text != manifest_text(manifest):
            return f"{path} is not as it was written"
        for name, wanted in manifest.items():
            path = folder / name
            if not path.is_file():
                return f"{path} is missing"
            is_same_size = path.stat().st_size == wanted["bytes"]
            if not is_same_size or (with_content and file_sha256(path) != wanted["sha256"]):
                return f"{path} does not have the sha256 its manifest says"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path} cannot be read ({error})"
    if STATE not in manifest or "student.safetensors" not in manifest:
        return f"{folder / MANIFEST} does not list {STATE} and student.safetensors"
    return None


def manifest_text(manifest: Mapping[str, Mapping[str, Any]]) -> str:
    """manifest.json: sha256 and bytes by file name. One text for each content, so that no damage goes unnoticed."""
    return json.dumps(manifest, indent=2) + "\n"


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
    return parse_progress((folder / STATE).read_bytes(), where=str(folder), identity=identity)


def parse_progress(state: bytes, *, where: str, identity: str) -> Progress:
    """The progress in the content of state.json; see `read_progress`."""
    content = json.loads(state)
    if content.pop("schemaVersion", None) != SCHEMA_VERSION:
        raise WeightsError(
            f"{where} was written by another version",
            remedy="Use the version that wrote it, or start in another output",
        )
    found = content.pop("identity")
    if found != identity:
        raise WeightsError(
            f"{where} belongs to another training configuration ({found[:12]}, this one is {identity[:12]})",
            field="spec.output",
            remedy="Choose another output, or restore the manifest the run was started with",
        )
    del content["epoch"], content["steps_per_epoch"]
    return Progress(**{**content, "skipped_steps": tuple(content["skipped_steps"])})


def read_summary(folder: Path) -> Summary:
    """What a valid checkpoint says of itself; the identity is not looked at."""
    content = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return Summary(
        number=number_of(folder),
        stage=content["stage"],
        step=content["step"],
        epoch=content["epoch"],
        steps_per_epoch=content["steps_per_epoch"],
        best_oiou=content["best_oiou"],
        oiou=content["oiou"] if content["evaluated_step"] == content["step"] else None,
        finished=content["finished"],
    )


def prune_checkpoints(root: Path, *, keep_last: int, keep_numbers: Container[int] = ()) -> None:
    """Delete old checkpoints except the newest `keep_last` and those with a number in `keep_numbers`.

    Nothing is deleted unless one of the newest is valid; leftovers of interrupted writes are removed. Raises OSError.
    """
    remove_leftovers(root)
    folders = checkpoints_of(root)
    newest = sorted({number_of(path) for path in folders})[-max(1, keep_last) :]
    doomed = [path for path in folders if number_of(path) not in newest and number_of(path) not in keep_numbers]
    if doomed and any(is_valid(path) for path in reversed(folders) if number_of(path) in newest):
        for path in doomed:
            _remove(path)


def remove_leftovers(root: Path) -> None:
    """Remove what writes and deletions left that were cut short; only the process that writes `root` may."""
    for leftover in root.glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    for aside in root.glob(f"step-*{REPLACED}"):
        if is_valid(aside.with_name(aside.name.removesuffix(REPLACED))):
            _remove(aside)


def _remove(folder: Path) -> None:
    """Delete a checkpoint: its name goes first, so that nobody finds half of it."""
    hidden = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def number_of(folder: Path) -> int:
    """The step number in a checkpoint's name; ValueError if it is not one."""
    match = _NAME.fullmatch(folder.name)
    if match is None:
        raise ValueError(f"{folder} is no checkpoint")
    return int(match[1])
