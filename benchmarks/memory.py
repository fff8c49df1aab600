"""Peak memory of the training process and of a loader worker, beside what `semires plan` estimates.

    python benchmarks/memory.py [--json]

The training processes are real runs of `semires train` on the synthetic benchmark, on the CPU, each for an epoch or
less: the quickstart, and the paper's network (Swin-B, BERT, 480 x 480, random weights) with one micro-batch of 2
labelled and 2 unlabelled images. A worker serves the samples of sample_pipeline.py; its private memory is what each
further worker costs, the rest is shared with the process that started it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path

import click
import torch
from harness import PROGRAM, QUICKSTART, ROOT, environment, settings
from sample_pipeline import make_fixture

from semires_trainer.data.loader import load_batches
from semires_trainer.refine.packed import ProposalBatch

SHORT = {"training.burnInEpochs": "1", "training.epochs": "1", "training.device": "CPU"}
PAPER = {
    "dataset.unlabeledLimit": "1",
    "model.dimensions": "null",
    "model.backbone": "SwinBase",
    "model.imageSize": "480",
    "model.textDimensions": "null",
    "model.vocab": str(ROOT / "tests" / "data" / "bert-base-uncased-vocab.txt"),
    "training.optimizedTextLayers": "10",
    "training.trainEmbeddings": "false",
    "training.burnInEpochs": "0",
    "training.batch": "{labeled: 2, unlabeled: 2}",
}
WORKER_BATCHES = 16


def semires(folder: Path, *arguments: str) -> bytes:
    command = [*PROGRAM, *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), check=True, stdout=subprocess.PIPE).stdout


def training_memory(folder: Path, name: str, changes: Mapping[str, str]) -> dict[str, int]:
    """Bytes: the peak resident memory of a training process, and the plan's estimate of its tensors."""
    arguments = [str(QUICKSTART), "--output", name, *settings({**SHORT, **changes})]
    estimate = json.loads(semires(folder, "plan", *arguments, "--json"))["memory"]["total_fp32_bytes"]
    command = [*PROGRAM, "train", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException(f"{name} ended with {os.waitstatus_to_exitcode(status)}")
    return {"peak resident": usage.ru_maxrss * 1024, "plan's estimate": estimate}


def worker_memory(folder: Path) -> dict[str, int]:
    """Bytes of a loader worker that has served some batches of 12 samples."""
    fixture = make_fixture(folder)
    addresses = cycle(fixture.addresses)
    batches = (list(islice(addresses, 12)) for _ in range(2 * WORKER_BATCHES))
    loaded = load_batches(fixture.dataset, batches, workers=1, stack_proposals=ProposalBatch.stack)
    for _ in range(WORKER_BATCHES):
        next(loaded)
    (worker,) = multiprocessing.active_children()
    rollup = Path(f"/proc/{worker.pid}/smaps_rollup").read_text()
    found = {key: 1024 * int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB", rollup, re.MULTILINE)}
    return {"resident": found["Rss"], "private": found["Private_Clean"] + found["Private_Dirty"]}


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of the table.")
def main(as_json: bool) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "worker").mkdir()
        semires(folder, "data", "synthetic", "--output", "synthetic", "--images", "200", "--eval-images", "2")
        rows = {
            "loader worker": worker_memory(folder / "worker"),
            "quickstart": training_memory(folder, "quickstart", {}),
            "Swin-B 480, 2 + 2 images": training_memory(folder, "paper", PAPER),
        }
    for case, sizes in rows.items():
        shown = {key: f"{value / 2**20:.0f} MiB" for key, value in sizes.items()}
        click.echo(json.dumps({"benchmark": "memory", "process": case, **shown}) if as_json else f"{case}: {shown}")


if __name__ == "__main__":
    main()
