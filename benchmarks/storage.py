"""0.5 GB from an S3 server on this machine, sha256 verified: ours against boto3's defaults and hashlib after it.

    python benchmarks/storage.py [--json]

Ours is `Storage.download`. The peer is `boto3.download_file` with its defaults, then `hashlib.file_digest`, compared
with the same checksum. Both write a new file on the same disk; ours also syncs it, so a second peer does that too.
Before each round the disk is synced, so that nobody waits for what the other has left in memory. The server is a
versitygw (built once, see tests/testbed), without TLS. The limit is one core that hashes: the time of hashing alone is
reported beside.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import click
from harness import interleave, machine

from semires_trainer.storage import Storage, StorageSettings

TESTBED = Path(__file__).parents[1] / "tests" / "testbed"
URI, BUCKET, KEY = "s3://bucket/weights.bin", "bucket", "weights.bin"

PEERS = {"boto3.download_file, then sha256": False, "boto3.download_file, then sha256 and fsync": True}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TESTBED / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def running_server(folder: Path) -> Iterator[Any]:
    """A versitygw over `folder`."""
    program = load("go_tools").build("versitygw", "github.com/versity/versitygw/cmd/versitygw")
    server = load("s3_server").S3Server(program, folder)
    try:
        yield server
    finally:
        server.close()


def sha256_of(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def verified(path: Path, found: str, expected: str) -> None:
    """Stop unless the content is right; the next round starts without the file."""
    if found != expected:
        raise click.ClickException(f"{path} has sha256 {found}, expected {expected}")
    path.unlink()


def make_ours(storage: Storage, path: Path, sha256: str) -> Callable[[], None]:
    return lambda: verified(path, storage.download(URI, path, sha256=sha256).sha256, sha256)


def make_peer(client: Any, path: Path, sha256: str, *, durable: bool) -> Callable[[], None]:
    def call() -> None:
        client.download_file(BUCKET, KEY, str(path))
        found = sha256_of(path)
        if durable:
            with path.open("rb+") as handle:
                os.fsync(handle.fileno())
        verified(path, found, sha256)

    return call


def hash_seconds(path: Path) -> float:
    """Fastest of three, from the page cache."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        sha256_of(path)
        times.append(time.perf_counter() - start)
    return min(times)


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of the table.")
@click.option("--rounds", default=7, show_default=True, help="Interleaved rounds.")
@click.option("--megabytes", default=512, show_default=True, help="Size of the object in MiB.")
def main(as_json: bool, rounds: int, megabytes: int) -> None:
    with tempfile.TemporaryDirectory() as text, running_server(Path(text) / "s3") as server:
        folder = Path(text)
        (folder / "source").write_bytes(os.urandom(2**20) * megabytes)
        load_credentials = sys.modules["s3_server"].write_credentials
        settings = StorageSettings(
            endpoint_url=server.url,
            region="eu-test-1",
            path_style=True,
            credentials_folder=load_credentials(folder / "credentials"),
        )
        client = boto3.client("s3", endpoint_url=server.url, region_name="eu-test-1", **server.keys)
        with Storage(settings) as storage:
            sha256 = storage.upload(folder / "source", URI).sha256
            limit = hash_seconds(folder / "source")
            (folder / "source").unlink()
            ours = make_ours(storage, folder / "ours", sha256)
            results = {
                name: interleave(
                    ours, make_peer(client, folder / "peer", sha256, durable=durable), rounds=rounds, settle=os.sync
                )
                for name, durable in PEERS.items()
            }
    for name, result in results.items():
        times = f"{result.ours_ms:9.0f}{result.peer_ms:9.0f}{result.ratio:7.2f}x{result.ratio_min:7.2f}x"
        row = result.row("storage download", MiB=megabytes, peer=name)
        click.echo(row if as_json else f"{name:45}{times}")
    facts = {"benchmark": "storage download", "hashing alone, ms": round(limit * 1000), "machine": machine()}
    click.echo(json.dumps(facts) if as_json else f"hashing alone {limit * 1000:.0f} ms")


if __name__ == "__main__":
    main()
