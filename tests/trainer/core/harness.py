"""What the tests of the core share: the smallest manifest that trains in earnest, and a run that stops when told to.

Loaded by conftest.py and by ranks.py, so it knows nothing of pytest.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from semires_trainer.checkpoint_folders import newest_valid
from semires_trainer.config import Resolved, parse_job, resolve
from semires_trainer.distributed import joined_world
from semires_trainer.identity import claim_output
from semires_trainer.loaders import Loaders
from semires_trainer.materials import load_materials
from semires_trainer.orders import ControlFolder
from semires_trainer.run import open_bad_images, run_stages
from semires_trainer.signals import StopFlag
from semires_trainer.sinks import NullSink, Position
from semires_trainer.stages import Run, evaluate_all
from semires_trainer.steps import Compute
from semires_trainer.storage import Storage
from semires_trainer.telemetry import Reporter

Document = dict[str, Any]
Moment = Callable[[Position], bool]

STEPS_PER_EPOCH = 3
"""13 labelled refs in batches of 4; 15 unlabelled refs in batches of 4."""


def document_of(data: Path, output: Path, **training: Any) -> Document:
    """A manifest of 10 images and a network of 0.1 M parameters; two epochs of 3 steps in each stage."""
    dimensions = {"embedDim": 8, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 4}
    text = {"hiddenSize": 32, "layers": 1, "heads": 2, "intermediateSize": 64, "maxPositions": 32}
    return {
        "apiVersion": "semires.dev/v1alpha1",
        "kind": "SemiRESJob",
        "metadata": {"name": "tiny"},
        "spec": {
            "dataset": {
                "name": "RefCOCO",
                "annotations": str(data),
                "images": str(data / "images"),
                "labeled": {"percent": "50"},
                "evaluate": ["val", "testA"],
            },
            "proposals": {
                "generator": "Felzenszwalb",
                "felzenszwalb": {"scales": [100, 300], "minSize": 40},
                "store": str(data / "store"),
            },
            "model": {
                **{"dimensions": dimensions, "imageSize": 64, "maxTokens": 16, "swin": "random"},
                **{"bert": "random", "vocab": str(data / "vocab.txt"), "textDimensions": text},
            },
            "training": {
                **{"burnInEpochs": 2, "epochs": 2, "burnInBatch": 4, "batch": {"labeled": 4, "unlabeled": 4}},
                **{"learningRate": "1e-3", "emaDecay": "0.9", "trainEmbeddings": True, "logIntervalSteps": 2},
                **{"device": "CPU", "deterministic": True, **training},
            },
            "output": str(output),
        },
    }


def changed(document: Document, **paths: Any) -> Document:
    """A copy with other values: changed(document, training__seed=1)."""
    copied = copy.deepcopy(document)
    for path, value in paths.items():
        *parents, last = path.split("__")
        place = copied["spec"]
        for part in parents:
            place = place[part]
        place[last] = value
    return copied


def resolved_of(document: Document) -> Resolved:
    """The resolved configuration of a manifest."""
    return resolve(parse_job(document))


@dataclass
class Watch(NullSink):
    """Shows nothing, remembers the loss of each step, and asks the run to stop at a moment."""

    stop: StopFlag
    stop_when: Moment
    signal_number: int = 15
    losses: dict[str, list[float]] = field(default_factory=lambda: {"burn-in": [], "train": []})
    messages: list[str] = field(default_factory=list)

    def progress(self, position: Position) -> None:
        if "loss" in position.values:
            self.losses[position.stage].append(float(position.values["loss"]))
        self._look(position)

    def stage_begins(self, position: Position) -> None:
        self._look(position)

    def event(self, level: int, event: str, message: str, fields: Mapping[str, Any]) -> None:
        self.messages.append(message)

    def _look(self, position: Position) -> None:
        if self.stop_when(position):
            self.stop.signal_number = self.signal_number


def cut(path: Path) -> None:
    """Leave half of an image file, as a copy that broke off; once, whoever calls it."""
    content = path.read_bytes()
    if content.endswith(b"\xff\xd9"):  # JPEG's end of image
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(content[: len(content) // 2])
        temporary.replace(path)


def never(_position: Position) -> bool:
    return False


@contextmanager
def opened_run(document: Document, *, stop_when: Moment = never) -> Iterator[tuple[Run, Watch]]:
    """What `run_rank` does before the stages, with a watch instead of a display."""
    resolved = resolved_of(document)
    with joined_world(device="CPU", deterministic=resolved.training.deterministic) as world:
        materials = load_materials(resolved)
        watch = Watch(stop=StopFlag(), stop_when=stop_when)
        with Storage() as storage:
            identity = world.broadcast(
                claim_output(storage, resolved.output, resolved).identity if world.is_main else None
            )
        loaders = Loaders(
            resolved=resolved,
            materials=materials,
            world=world,
            workers=resolved.training.workers or 0,
            bad_images=open_bad_images(resolved, materials, world, ControlFolder(Path(resolved.output) / ".run")),
        )
        run = Run(
            resolved=resolved,
            identity=identity,
            loaders=loaders,
            compute=Compute(world=world, bf16=False, channels_last=False),
            reporter=Reporter(watch),
            stop=watch.stop,
        )
        yield run, watch


def train(document: Document, *, stages: Sequence[str] = ("train",), stop_when: Moment = never) -> Watch:
    """Run stages to their end, without drawing pictures; StopRequested when `stop_when` said so."""
    with opened_run(document, stop_when=stop_when) as (run, watch):
        run_stages(run, [stage for stage in stages if stage != "evaluate"])
        if "evaluate" in stages:
            evaluate_all(run)
        return watch


def newest_tensors(output: Path) -> dict[str, Tensor]:
    """Everything in the newest checkpoint as `<file>/<tensor>`."""
    folder = newest_valid(output / "checkpoints")
    if folder is None:
        raise FileNotFoundError(output / "checkpoints")
    files = sorted(folder.glob("*.safetensors"))
    return {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def differing(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not identical, bit by bit."""
    both = first.keys() & second.keys()
    return sorted(
        (first.keys() ^ second.keys()) | {name for name in both if not torch.equal(first[name], second[name])}
    )
