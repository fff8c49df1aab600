"""Runs the same things on 1, 2 and 4 processes and writes what came out as JSON. Started by test_ranks.py:

    python ranks.py DATA RESULTS

One process imports torch once and forks the ranks (before it has used autograd or made a thread).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

import harness

from semires_trainer.distributed import World, joined_world, synchronize_batch_norm
from semires_trainer.evaluate import evaluate
from semires_trainer.models.build import build_model
from semires_trainer.signals import StopRequested

Json = dict[str, Any]

SIZES = (1, 2, 4)
MEETINGS = 8
"""How often the ranks join and part."""


_ports: list[int] = []


def train(document: harness.Document, *, stop_when: harness.Moment = harness.never) -> harness.Watch:
    meet_elsewhere()
    return harness.train(document, stop_when=stop_when)


def meet_elsewhere() -> None:
    """Ranks that meet again at the same port may find the old meeting, which is about to end."""
    os.environ["MASTER_PORT"] = str(_ports.pop())


def calm(document: harness.Document) -> harness.Document:
    """Without chance that depends on the rank: no dropout, no drop-path; steps so small that rounding stays small."""
    model = {"model__dropPath": "0", "model__textDropout": "0"}
    return harness.changed(document, **model, training__learningRate="1e-4")


def losses(data: Path, output: Path, *, deterministic: bool) -> Json:
    """Loss of every step of burn-in and mutual learning; the weights beside."""
    document = calm(harness.document_of(data, output, deterministic=deterministic, burnInEpochs=1, epochs=1))
    watch = train(document)
    return {"losses": watch.losses}


def patience(data: Path, output: Path) -> Json:
    """The last step of a stage that ends early."""
    document = harness.document_of(data, output, patience=1, burnInEpochs=1, epochs=50, learningRate="1e-9")
    watch = train(document)
    return {"steps": len(watch.losses["train"]), "planned": 50 * harness.STEPS_PER_EPOCH}


def stop(data: Path, output: Path, *, rank: int) -> Json:
    """Only the last rank is asked to stop, in its second step; the run then goes on to its end."""
    asked = rank == int(os.environ["WORLD_SIZE"]) - 1

    def when(position: harness.Position) -> bool:
        return asked and position.stage == "burn-in" and position.done == 1

    whole, parts = (harness.document_of(data, output / name, burnInEpochs=1, epochs=1) for name in ("whole", "parts"))
    found: Json = {"exit_code": 0}
    try:
        train(parts, stop_when=when)
    except StopRequested as stopped:
        found = {"exit_code": stopped.exit_code, "message": str(stopped).replace(str(output), "OUTPUT")}
    for document in (parts, whole):
        train(document)
    whole_tensors, tensors = (harness.newest_tensors(output / name) for name in ("whole", "parts"))
    return {**found, "differing": harness.differing(whole_tensors, tensors)}


def figures(data: Path, output: Path) -> Json:
    """Every figure of a random model that finds something, all digits; 7 batches for up to 4 ranks."""
    meet_elsewhere()
    with harness.opened_run(harness.document_of(data, output)) as (run, _):
        model = build_model(run.resolved.model, seed=3)
        last = [module for module in model.decoder.modules() if isinstance(module, nn.Conv2d)][-1]
        nn.init.normal_(last.weight, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(last.bias)
        dataset = run.loaders.evaluation("val")
        found = evaluate(model, dataset, run.compute, run.reporter, batch_size=4, workers=0)
        return {"square": repr(found.square), "original": repr(found.original), "training": model.training}


def batch_norm(world: World, dtype: torch.dtype) -> Json:
    """Batch norm of a rank's share of 8 pictures: output, gradients and statistics of the whole batch."""
    torch.manual_seed(0)
    x, slope = torch.randn(8, 5, 3, 4).to(dtype) * 3 + 7, torch.randn(8, 5, 3, 4).to(dtype)
    norm = nn.BatchNorm2d(5).to(torch.float64 if dtype == torch.float64 else torch.float32)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    synchronize_batch_norm(norm, world)
    mine = slice(8 * world.rank // world.size, 8 * (world.rank + 1) // world.size)
    shares = []
    for _ in range(2):
        share = x[mine].clone().requires_grad_()
        output = norm(share)
        (output * slope[mine]).sum().backward()
        shares.append((output.detach(), share.grad))
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    norm.eval()
    return {
        "type": type(norm).__name__,
        "dtype": str(output.dtype),
        "output": gathered(shares[-1][0], world),
        "x_grad": gathered(shares[-1][1], world),
        "weight_grad": world.sum(norm.weight.grad).tolist(),
        "bias_grad": world.sum(norm.bias.grad).tolist(),
        "running_mean": norm.running_mean.tolist(),
        "running_var": norm.running_var.tolist(),
        "num_batches_tracked": int(norm.num_batches_tracked),
        "evaluated": gathered(norm(x[mine]).detach(), world),
    }


def gathered(share: Tensor, world: World) -> list[float]:
    whole = torch.zeros(8, *share.shape[1:], dtype=torch.float64)
    whole[8 * world.rank // world.size : 8 * (world.rank + 1) // world.size] = share.double()
    return world.sum(whole).flatten().tolist()


def rank_main(rank: int, size: int, ports: list[int], data: Path, results: Path) -> None:
    _ports[:] = ports
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    outputs = results / f"{size}-processes"
    found: Json = {
        "flat": losses(data, outputs / "flat", deterministic=True),
        "ddp": losses(data, outputs / "ddp", deterministic=False),
        "figures": figures(data, outputs / "figures"),
    }
    if size != 2:
        found["patience"] = patience(data, outputs / "patience")
        found["stop"] = stop(data, outputs / "stop", rank=rank)
    meet_elsewhere()
    with joined_world(device="CPU", deterministic=True) as world:
        for dtype in (torch.float64, torch.bfloat16):
            found[f"batch_norm_{dtype}".replace("torch.", "")] = batch_norm(world, dtype)
    (results / f"{size}-{rank}.json").write_text(json.dumps(found))


def free_ports(count: int) -> list[int]:
    servers = [socket.socket() for _ in range(count)]
    for server in servers:
        server.bind(("127.0.0.1", 0))
    ports = [int(server.getsockname()[1]) for server in servers]
    for server in servers:
        server.close()
    return ports


def main(data: Path, results: Path) -> int:
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    for size in SIZES:
        ports = free_ports(MEETINGS)
        ranks = [context.Process(target=rank_main, args=(rank, size, ports, data, results)) for rank in range(size)]
        for process in ranks:
            process.start()
        if not all_end_well(ranks):
            return 1
    return 0


def all_end_well(ranks: list[Any]) -> bool:
    """Wait for all; when one fails the others, which would wait for it, are ended."""
    while alive := [process for process in ranks if process.exitcode is None]:
        wait([process.sentinel for process in alive])
        if any(process.exitcode for process in ranks):
            for process in alive:
                process.kill()
            return False
    return True


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
