"""Runs with faults on 1 and 2 processes and writes what came out as JSON. Started by test_fault_ranks.py:

    python fault_ranks.py DATA RESULTS

One process imports torch once and forks the ranks, as in ranks.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

import harness
import ranks

from semires_trainer.errors import DivergedError
from semires_trainer.steps import MutualStep

MEETINGS = 4
BAD_STEP = 4
"""Of mutual learning: one after the checkpoint at the end of its first epoch."""


def bad_images(data: Path, output: Path) -> ranks.Json:
    """A file that is cut before mutual learning reads it; each rank loads with two processes of its own."""
    document = harness.document_of(data, output, burnInEpochs=1, epochs=2, workers=2)
    path = data / "images" / unlabeled_image(document)

    def cut_when_mutual_learning_begins(position: harness.Position) -> bool:
        # Each rank for itself: none can begin to read before the file is cut.
        if position.stage == "train" and position.done == 0:
            harness.cut(path)
        return False

    with recorded_refs() as refs:
        watch = ranks.train(document, stop_when=cut_when_mutual_learning_begins)
    told = [text for text in watch.messages if text.startswith("Bad image")]
    return {"refs": refs, "told": told, "name": path.name}


@contextmanager
def recorded_refs() -> Iterator[list[list[int]]]:
    """Places of the unlabelled refs of each step of this rank."""
    refs: list[list[int]] = []

    def record(micro_batches: Any, step: int) -> Any:
        refs.append([int(ref) for _, unlabeled in micro_batches for ref in unlabeled["ref"]])
        return micro_batches

    with changed_batches(record):
        yield refs


@contextmanager
def changed_batches(change: Callable[[Any, int], Any]) -> Iterator[None]:
    """Steps of mutual learning get `change(micro_batches, step)`."""
    sound = MutualStep.compute_gradients

    def compute_gradients(self: MutualStep, micro_batches: Any, *, step: int) -> dict[str, torch.Tensor]:
        return sound(self, change(micro_batches, step), step=step)

    MutualStep.compute_gradients = compute_gradients  # type: ignore[method-assign]
    try:
        yield
    finally:
        MutualStep.compute_gradients = sound  # type: ignore[method-assign]


def unlabeled_image(document: harness.Document) -> str:
    """The first image without labels."""
    materials = harness.load_materials(harness.resolved_of(document))
    labeled = {ref.image_id for ref in materials.labeled}
    return next(
        materials.dataset.images[ref.image_id].file_name for ref in materials.unlabeled if ref.image_id not in labeled
    )


def last_is_not_finite(rank: int, size: int) -> Callable[[Any, int], Any]:
    """One labelled image of the last rank is NaN in one step."""

    def spoil(micro_batches: Any, step: int) -> Any:
        if step != BAD_STEP or rank != size - 1:
            return micro_batches
        (labeled, unlabeled), *others = micro_batches
        return [({**labeled, "image": labeled["image"] * torch.nan}, unlabeled), *others]

    return spoil


def diverging(data: Path, output: Path, policy: str) -> ranks.Json:
    """How a run with one loss that is not finite goes on, or ends."""
    document = harness.document_of(data, output, burnInEpochs=1, epochs=2, nanPolicy=policy)
    try:
        watch = ranks.train(document)
    except DivergedError as error:
        return {"exit_code": error.exit_code, "message": str(error)}
    newest = sorted((output / "checkpoints").iterdir())[-1]
    skipped = json.loads((newest / "state.json").read_text())["skipped_steps"]
    return {"exit_code": 0, "skipped": skipped, "losses": watch.losses["train"], "messages": watch.messages}


def rank_main(rank: int, size: int, ports: list[int], data: Path, results: Path) -> None:
    ranks._ports[:] = ports
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    outputs = results / f"{size}-processes"
    found: ranks.Json = {"bad_images": bad_images(results / f"data-{size}", outputs / "bad-images")}
    if size > 1:
        with changed_batches(last_is_not_finite(rank, size)):
            for policy in ("Stop", "Skip", "RollBack"):
                found[policy] = diverging(data, outputs / policy, policy)
        skipped, rolled_back = (harness.newest_tensors(outputs / policy) for policy in ("Skip", "RollBack"))
        found["differing"] = harness.differing(skipped, rolled_back)
    (results / f"{size}-{rank}.json").write_text(json.dumps(found))


def main(data: Path, results: Path) -> int:
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    for size in (1, 2):
        shutil.copytree(data, results / f"data-{size}")
        ports = ranks.free_ports(MEETINGS)
        processes = [context.Process(target=rank_main, args=(rank, size, ports, data, results)) for rank in range(size)]
        for process in processes:
            process.start()
        if not ranks.all_end_well(processes):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
