"""Steps of a training loop while a checkpoint is uploaded beside it: by our supervisor's process, or inside the loop's.

    python benchmarks/upload.py [--json]

The loop has a core of its own; uploader and server share the other. Ours is `Storage.upload` in another process, as the
supervisor does it. The peer is `boto3.upload_file` in a thread of the training process, with its defaults, on the other
core as well. Rounds alternate: alone, ours, peer. A step is a forward and a backward pass of a small network with many
small operations, about 20 ms, most of it inside torch, the rest in Python. The limit is no slowdown at all; what ours
has left is memory bandwidth and cache that two cores share: a core that only hashes in a loop is reported beside.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import click
import torch
from harness import environment, machine
from storage import running_server
from torch import nn

LOOP_CORE, OTHER_CORE = 0, 1
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""The server keeps its objects in memory: else the kernel writes them to the disk on the loop's core."""
STEPS = 60
UPLOADER = """
import itertools, sys
from pathlib import Path
from semires_trainer.storage import Storage, StorageSettings
url, credentials, source = sys.argv[1:]
settings = StorageSettings(
    endpoint_url=url, region="eu-test-1", path_style=True, credentials_folder=Path(credentials)
)
with Storage(settings) as storage:
    for number in itertools.count():
        storage.upload(Path(source), f"s3://bucket/ours-{number}")
        storage.delete(f"s3://bucket/ours-{number}")
        print("uploaded", flush=True)
"""


def make_step() -> Callable[[], None]:
    """One optimizer step of about 20 ms on one core."""
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Linear(256, 256), nn.LayerNorm(256), nn.GELU())]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batch = torch.randn(128, 256)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(batch).square().mean().backward()
        optimizer.step()

    return step


def step_ms(step: Callable[[], None]) -> float:
    """Median milliseconds of `STEPS` steps."""
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


@contextmanager
def hash_beside() -> Iterator[None]:
    """The other core hashes until the block ends."""
    code = "import hashlib\ndata = bytes(1 << 20)\nwhile True: hashlib.sha256(data)"
    with subprocess.Popen([sys.executable, "-c", code], preexec_fn=use_other_core) as process:
        time.sleep(0.5)
        yield
        process.kill()


def use_other_core() -> None:
    """Move this process."""
    os.sched_setaffinity(0, {OTHER_CORE})


@contextmanager
def ours_beside(server: Any, credentials: Path, source: Path) -> Iterator[None]:
    """Uploads in another process until the block ends."""
    command = [sys.executable, "-c", UPLOADER, server.url, str(credentials), str(source)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, preexec_fn=use_other_core) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it is at work
        yield
        process.kill()


@contextmanager
def peer_beside(server: Any, source: Path) -> Iterator[None]:
    """Uploads in a thread of this process until the block ends."""
    client = boto3.client("s3", endpoint_url=server.url, region_name="eu-test-1", **server.keys)
    stop, uploaded = threading.Event(), []

    def work() -> None:
        os.sched_setaffinity(threading.get_native_id(), {OTHER_CORE})
        while not stop.is_set():
            client.upload_file(str(source), "bucket", "peer")
            uploaded.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    while not uploaded:
        time.sleep(0.05)
    try:
        yield
    finally:
        stop.set()
        thread.join()


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of the table.")
@click.option("--rounds", default=7, show_default=True, help="Rounds of alone, ours, peer.")
@click.option("--megabytes", default=256, show_default=True, help="Size of the file in MiB.")
def main(as_json: bool, rounds: int, megabytes: int) -> None:
    torch.set_num_threads(1)
    step = make_step()
    with tempfile.TemporaryDirectory(dir=MEMORY) as text, running_server(Path(text) / "s3") as server:
        folder = Path(text)
        source = folder / "source"
        source.write_bytes(os.urandom(2**20) * megabytes)
        credentials = sys.modules["s3_server"].write_credentials(folder / "credentials")
        for thread in Path(f"/proc/{server.process_id}/task").iterdir():  # a thread passes its cores on to new ones
            os.sched_setaffinity(int(thread.name), {OTHER_CORE})
        os.sched_setaffinity(0, {LOOP_CORE})
        step_ms(step)
        alone, hashing, ours, peer = [], [], [], []
        for _ in range(rounds):
            alone.append(step_ms(step))
            with hash_beside():
                hashing.append(step_ms(step))
            with ours_beside(server, credentials, source):
                ours.append(step_ms(step))
            with peer_beside(server, source):
                peer.append(step_ms(step))
    slowdown = {
        name: statistics.median(100 * (b / a - 1) for a, b in zip(alone, times, strict=True))
        for name, times in (("a core that hashes", hashing), ("ours", ours), ("boto3 in the process", peer))
    }
    facts = {
        "benchmark": "upload beside training",
        "step alone, ms": round(statistics.median(alone), 1),
        "MiB": megabytes,
        "rounds": rounds,
        **{f"slowdown with {name}, %": round(value, 1) for name, value in slowdown.items()},
        "machine": machine(),
    }
    click.echo(json.dumps(facts) if as_json else "\n".join(f"{name}: {value}" for name, value in facts.items()))


if __name__ == "__main__":
    main()
