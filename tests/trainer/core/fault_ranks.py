"""Runs with faults on 1 and 2 processes and writes what came out as JSON. Started by test_fault_ranks.py:

    python fault_ranks.py DATA RESULTS

One process imports torch once and forks the ranks, as in ranks.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
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


def bad_images(data: Path, output: Path, *, rank: int) -> ranks.Json:
    """A file that is cut before mutual learning, by one rank; each loads with two processes of its own."""
    document = ranks.calm(harness.document_of(data, output, burnInEpochs=1, epochs=2, workers=2))
    name = unlabeled_image(document)
    path = data / "images" / name
    whole = path.read_bytes()

    def cut_when_mutual_learning_begins(position: harness.Position) -> bool:
        if rank == 0 and position.stage == "proposals":
            path.write_bytes(whole)
        if rank == 0 and position.stage == "train" and position.done == 0:
            path.write_bytes(whole[: len(whole) // 2])
        return False

    watch = ranks.train(document, stop_when=cut_when_mutual_learning_begins)
    told = [text for text in watch.messages if text.startswith("Bad image")]
    return {"losses": watch.losses, "told": told, "name": name}


def unlabeled_image(document: harness.Document) -> str:
    """The first image without labels."""
    materials = harness.load_materials(harness.resolved_of(document))
    labeled = {ref.image_id for ref in materials.labeled}
    return next(
        materials.dataset.images[ref.image_id].file_name for ref in materials.unlabeled if ref.image_id not in labeled
    )


@contextmanager
def not_finite(*, rank: int, size: int) -> Iterator[None]:
    """One image of one rank is NaN in one step: the last rank's."""
    sound = MutualStep.compute_gradients

    def compute_gradients(self: MutualStep, micro_batches: Any, *, step: int) -> dict[str, torch.Tensor]:
        if step == BAD_STEP and rank == size - 1:
            (labeled, unlabeled), *others = micro_batches
            micro_batches = [({**labeled, "image": labeled["image"] * torch.nan}, unlabeled), *others]
        return sound(self, micro_batches, step=step)

    MutualStep.compute_gradients = compute_gradients  # type: ignore[method-assign]
    try:
        yield
    finally:
        MutualStep.compute_gradients = sound  # type: ignore[method-assign]


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
    found: ranks.Json = {"bad_images": bad_images(data, outputs / "bad-images", rank=rank)}
    if size > 1:
        with not_finite(rank=rank, size=size):
            for policy in ("Stop", "Skip", "RollBack"):
                found[policy] = diverging(data, outputs / policy, policy)
        skipped, rolled_back = (harness.newest_tensors(outputs / policy) for policy in ("Skip", "RollBack"))
        found["differing"] = harness.differing(skipped, rolled_back)
    (results / f"{size}-{rank}.json").write_text(json.dumps(found))


def main(data: Path, results: Path) -> int:
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    for size in (1, 2):
        ports = ranks.free_ports(MEETINGS)
        processes = [context.Process(target=rank_main, args=(rank, size, ports, data, results)) for rank in range(size)]
        for process in processes:
            process.start()
        if not ranks.all_end_well(processes):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
