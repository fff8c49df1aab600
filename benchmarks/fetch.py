"""2,000 of 8,000 images of 20 KB from an S3 server, by prefix, zip and tar: ours against a plain script.

    python benchmarks/fetch.py [--json]

Ours is `fetch_images` into an empty cache: every file on the disk, listed in a journal, whole after a kill at any
instant. The peers are what a script does: `get_object` for one image after another, written to a file; `download_file`
of the archive, then `zipfile` or `tarfile` for the images that are needed. They sync nothing. The server is a versitygw
(built once, see tests/testbed) on this machine, without TLS; a forwarder in between adds the round trip of a network.
Without any, a request costs processor time only, and requests in flight gain nothing.
"""

from __future__ import annotations

import io
import random
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import boto3
import click
from distance import distant
from harness import Comparison, interleave
from storage import BUCKET, running_server

from semires_trainer.fetch.files import Node
from semires_trainer.fetch.images import fetch_images
from semires_trainer.fetch.progress import Tally
from semires_trainer.fetch.sources import find_source
from semires_trainer.storage import Storage, StorageSettings

FOLDER = "train2014"
ARCHIVES = ("train2014.zip", "train2014.tar")


def contents(images: int, size: int) -> Iterator[tuple[str, bytes]]:
    """Names and files; random, as JPEG is."""
    for number in range(images):
        yield f"COCO_train2014_{number:012}.jpg", random.Random(number).randbytes(size)


def write_archives(folder: Path, images: Iterable[tuple[str, bytes]]) -> None:
    """Both archives, of a folder as COCO's are."""
    with zipfile.ZipFile(folder / ARCHIVES[0], "w") as zipped, tarfile.open(folder / ARCHIVES[1], "w") as tarred:
        for name, content in images:
            zipped.writestr(f"{FOLDER}/{name}", content)
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            tarred.addfile(member, io.BytesIO(content))


def fill_bucket(client: Any, folder: Path, images: int, size: int) -> None:
    """The images as objects, and the archives."""
    write_archives(folder, contents(images, size))

    def put(image: tuple[str, bytes]) -> None:
        client.put_object(Bucket=BUCKET, Key=f"{FOLDER}/{image[0]}", Body=image[1])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, contents(images, size)))
    for name in ARCHIVES:
        client.upload_file(str(folder / name), BUCKET, name)
        (folder / name).unlink()


class Ours:
    """Fetches into an empty cache each time; the bytes of the last time."""

    def __init__(self, storage: Storage, cache: Path, uri: str, names: list[str]) -> None:
        self.storage, self.cache, self.uri, self.names = storage, cache, uri, names
        self.bytes = 0

    def __call__(self) -> Path:
        shutil.rmtree(self.cache, ignore_errors=True)
        tally = Tally(None)
        node = Node(storage=self.storage, cache=self.cache, tally=tally, should_stop=lambda: False)
        folder = fetch_images(node, find_source(self.storage, self.uri), self.names)
        self.bytes = tally.fetched_bytes
        return folder


def make_loop(client: Any, folder: Path, names: list[str]) -> Callable[[], Path]:
    """One `get_object` after another."""

    def call() -> Path:
        fresh(folder)
        for name in names:
            body = client.get_object(Bucket=BUCKET, Key=f"{FOLDER}/{name}")["Body"]
            (folder / name).write_bytes(body.read())
        return folder

    return call


def make_download(client: Any, folder: Path, archive: str, names: list[str]) -> Callable[[], Path]:
    """The whole archive, then what is needed of it."""

    def call() -> Path:
        fresh(folder)
        path = folder.with_name(archive)
        client.download_file(BUCKET, archive, str(path))
        if archive.endswith(".zip"):
            with zipfile.ZipFile(path) as zipped:
                for name in names:
                    (folder / name).write_bytes(zipped.read(f"{FOLDER}/{name}"))
        else:
            needed = {f"{FOLDER}/{name}": name for name in names}
            with tarfile.open(path) as tarred:
                for member in tarred:
                    handle = tarred.extractfile(member) if member.name in needed else None
                    if handle is not None:
                        (folder / needed[member.name]).write_bytes(handle.read())
        path.unlink()
        return folder

    return call


def fresh(folder: Path) -> None:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def check_equal(first: Path, second: Path, names: list[str]) -> None:
    """Stop unless both sides bring the same files."""
    found = sorted(path.name for path in first.iterdir())
    if found != sorted(names) or any((first / name).read_bytes() != (second / name).read_bytes() for name in names):
        raise click.ClickException(f"{first} and {second} hold different images")


def settings_of(folder: Path, port: int) -> StorageSettings:
    """Ours, for a server on this machine."""
    url, credentials = f"http://127.0.0.1:{port}", folder / "credentials"
    return StorageSettings(
        endpoint_url=url, region="eu-test-1", path_style=True, credentials_folder=credentials, patience_seconds=0.0
    )


@contextmanager
def client_of(server: Any, port: int) -> Iterator[Any]:
    """boto3 as it comes."""
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="eu-test-1", **server.keys)
    yield client
    client.close()


def compare(
    server: Any, folder: Path, names: list[str], *, round_trip: int, rounds: int
) -> Iterator[tuple[Comparison, dict[str, Any]]]:
    """Each source in turn, with what was compared."""
    with (
        distant(server.port, round_trip) if round_trip else nullcontext(server.port) as port,
        client_of(server, port) as client,
        Storage(settings_of(folder, port)) as storage,
    ):
        downloads = {name: make_download(client, folder / "peer", name, names) for name in ARCHIVES}
        for source, peer in {FOLDER: make_loop(client, folder / "peer", names), **downloads}.items():
            ours = Ours(storage, folder / "cache", f"s3://{BUCKET}/{source}", names)
            check_equal(ours(), peer(), names)
            name = "get_object in a loop" if source == FOLDER else f"download_file, then {source[-3:]}file"
            details = {"source": source, "round trip, ms": round_trip, "images": len(names), "peer": name}
            yield interleave(ours, peer, rounds=rounds), {**details, "MB moved by ours": round(ours.bytes / 1e6)}


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of the table.")
@click.option("--rounds", default=3, show_default=True, help="Interleaved rounds.")
@click.option("--images", default=8000, show_default=True, help="Images in the bucket; every fourth is needed.")
@click.option("--kilobytes", default=20, show_default=True, help="Size of an image.")
@click.option("--round-trips", default="0,20", show_default=True, help="Milliseconds, separated by commas.")
def main(as_json: bool, rounds: int, images: int, kilobytes: int, round_trips: str) -> None:
    names = [name for name, _ in contents(images, 0)][::4]
    with tempfile.TemporaryDirectory() as text, running_server(Path(text) / "s3") as server:
        folder = Path(text)
        sys.modules["s3_server"].write_credentials(folder / "credentials")
        with client_of(server, server.port) as client:
            fill_bucket(client, folder, images, 1000 * kilobytes)
        for round_trip in map(int, round_trips.split(",")):
            for result, details in compare(server, folder, names, round_trip=round_trip, rounds=rounds):
                times = f"{result.ours_ms:9.0f}{result.peer_ms:9.0f}{result.ratio:7.2f}x{result.ratio_min:7.2f}x"
                words = "".join(f"{value:>{30 if isinstance(value, str) else 6}}" for value in details.values())
                click.echo(result.row("fetch images", **details) if as_json else f"{words}{times}")


if __name__ == "__main__":
    main()
