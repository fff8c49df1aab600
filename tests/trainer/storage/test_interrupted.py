"""Transfers that are killed go on where they stopped; through a server that fails all the time they still arrive."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest

from semires_trainer.storage import Storage, StorageSettings
from semires_trainer.storage.failures import AccessDenied, StorageUnavailable
from semires_trainer.storage.journal import parse_journal

MIB = 2**20
MakeFile = Callable[..., Path]
MakeStorage = Callable[..., Storage]
Settings = Callable[..., StorageSettings]
PATIENCE_SECONDS = 20

CHILD = """
import json, pathlib, sys
from semires_trainer.storage import Storage, StorageSettings
settings = json.loads(sys.argv[1])
settings["credentials_folder"] = pathlib.Path(settings["credentials_folder"])
storage = Storage(StorageSettings(**settings))
getattr(storage, sys.argv[2])(*(pathlib.Path(text) if text.startswith("/") else text for text in sys.argv[3:]))
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the transfer did not get that far"
        time.sleep(0.01)


@contextlib.contextmanager
def started(settings: StorageSettings, operation: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that makes one transfer; killed at the end."""
    command = [sys.executable, "-c", CHILD, json.dumps(asdict(settings), default=str), operation, *map(str, arguments)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def parts_in(journal: Path) -> int:
    return len(parse_journal(journal.read_text())[1]) if journal.exists() else 0


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    """boto3 as others use it."""
    made = boto3.client("s3", endpoint_url=server.url, region_name="eu-test-1", **server.keys)
    yield made
    made.close()


@pytest.fixture
def put(client: Any, storage: Storage, request: pytest.FixtureRequest) -> Callable[[Path, str], object]:
    """Our upload, or what other tools do: no sha256 in the metadata."""

    def put_plainly(path: Path, uri: str) -> None:
        client.put_object(Bucket="bucket", Key=uri.removeprefix("s3://bucket/"), Body=path.read_bytes())

    return storage.upload if request.param == "ours" else put_plainly


@pytest.mark.parametrize("put", ["ours", "others"], indirect=True)
def test_a_killed_download_fetches_only_what_is_missing(
    put: Callable[[Path, str], object],
    settings: Settings,
    make_storage: MakeStorage,
    make_proxy: Any,
    faults: ModuleType,
    prefix: str,
    make_file: MakeFile,
) -> None:
    source = make_file(8 * MIB + 5)
    target = source.parents[1] / "got" / "x"
    put(source, f"{prefix}/x")
    proxy = make_proxy(gate := faults.Gate(3))
    with started(settings(endpoint_url=proxy.url), "download", f"{prefix}/x", target):
        wait_for(lambda: parts_in(target.with_name(".x.part.journal")) == 3)
    left = sorted(path.name for path in target.parent.iterdir())
    gate.open()
    proxy.forget()

    moved = make_storage(endpoint_url=proxy.url).download(f"{prefix}/x", target).moved

    assert left == [".x.part", ".x.part.journal"]
    assert moved == 5 * MIB + 5
    assert [exchange.request.method for exchange in proxy.exchanges()] == ["HEAD", *["GET"] * 6]
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["x"]


def test_a_killed_upload_sends_only_what_is_missing(
    settings: Settings, make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str, make_file: MakeFile
) -> None:
    source = make_file(26 * MIB)
    proxy = make_proxy(gate := faults.Gate(2))
    with started(settings(endpoint_url=proxy.url), "upload", source, f"{prefix}/x"):
        wait_for(lambda: len(proxy.parts()) == 2)
    visible = make_storage().exists(f"{prefix}/x")
    gate.open()
    proxy.forget()

    sent = make_storage(endpoint_url=proxy.url).upload(source, f"{prefix}/x")

    found = make_storage().stat(f"{prefix}/x")
    assert not visible
    assert sent.moved == 16 * MIB
    assert len(proxy.parts()) == 4
    assert found is not None
    assert (found.size, found.sha256) == (26 * MIB, sent.sha256)
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_an_interrupted_upload_of_other_content_is_not_continued(
    make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str, make_file: MakeFile, tmp_path: Path
) -> None:
    broken = iter([None, faults.Answer(status=503)])
    proxy = make_proxy(lambda request: next(broken, faults.Answer(status=503)) if request.moves_content else None)
    storage = make_storage(endpoint_url=proxy.url, transfers=1)
    with pytest.raises(StorageUnavailable):
        storage.upload(make_file(11 * MIB, seed=1), f"{prefix}/x")
    proxy.decide = lambda _: None

    sent = storage.upload(make_file(11 * MIB, seed=2), f"{prefix}/x")

    storage.download(f"{prefix}/x", tmp_path / "x")
    assert sent.moved == 11 * MIB
    assert (tmp_path / "x").read_bytes() == make_file(11 * MIB, seed=2).read_bytes()


def test_uploads_that_were_given_up_are_ended(
    make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str, make_file: MakeFile, client: Any
) -> None:
    proxy = make_proxy(lambda request: faults.Answer(status=503) if request.moves_content else None)
    storage = make_storage(endpoint_url=proxy.url)
    for seed in (1, 2):
        with pytest.raises(StorageUnavailable):
            storage.upload(make_file(6 * MIB, seed=seed), f"{prefix}/x")
    proxy.decide = lambda _: None

    storage.upload(make_file(6 * MIB, seed=3), f"{prefix}/x")

    listed = client.list_multipart_uploads(Bucket="bucket", Prefix=prefix.removeprefix("s3://bucket/"))
    assert "Uploads" not in listed


def test_damage_to_what_an_earlier_download_left_is_mended(
    make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str, make_file: MakeFile, tmp_path: Path
) -> None:
    source = make_file(4 * MIB)
    make_storage().upload(source, f"{prefix}/x")
    broken = iter([None, None])
    proxy = make_proxy(lambda request: next(broken, faults.Answer(status=503)) if request.range else None)
    storage = make_storage(endpoint_url=proxy.url, transfers=1)
    with pytest.raises(StorageUnavailable):
        storage.download(f"{prefix}/x", tmp_path / "x")
    with (tmp_path / ".x.part").open("rb+") as handle:
        handle.write(b"damage")
    proxy.decide = lambda _: None

    storage.download(f"{prefix}/x", tmp_path / "x")

    assert (tmp_path / "x").read_bytes() == source.read_bytes()


def test_a_connection_that_breaks_goes_on_at_the_byte_where_it_broke(
    make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str, make_file: MakeFile, tmp_path: Path
) -> None:
    make_storage().upload(make_file(32 * MIB), f"{prefix}/x")
    broken = iter([faults.RESET_BODY])
    proxy = make_proxy(lambda request: next(broken, None) if request.range else None)

    storage = make_storage(endpoint_url=proxy.url, patience_seconds=30.0, transfers=1, download_part_bytes=16 * MIB)

    storage.download(f"{prefix}/x", tmp_path / "x")

    starts = [int(exchange.request.range[6:].split("-")[0]) for exchange in proxy.exchanges() if exchange.request.range]
    assert starts[0] == 0
    assert 0 < starts[1] <= 8 * MIB


def test_two_processes_that_want_the_same_file_fetch_it_once(
    settings: Settings,
    make_storage: MakeStorage,
    make_proxy: Any,
    faults: ModuleType,
    prefix: str,
    make_file: MakeFile,
    tmp_path: Path,
) -> None:
    source = make_file(4 * MIB)
    make_storage().upload(source, f"{prefix}/x")
    proxy = make_proxy(gate := faults.Gate(1))
    with started(
        settings(endpoint_url=proxy.url, patience_seconds=60), "download", f"{prefix}/x", tmp_path / "x"
    ) as other:
        wait_for(lambda: parts_in(tmp_path / ".x.part.journal") == 1)
        gate.open()
        moved = make_storage(endpoint_url=proxy.url).download(f"{prefix}/x", tmp_path / "x").moved
        code = other.wait(timeout=PATIENCE_SECONDS)

    assert (code, moved) == (0, 0)
    assert len(proxy.parts()) == 4


def test_a_refused_part_ends_the_download_at_once_with_its_reason(
    make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str, make_file: MakeFile, tmp_path: Path
) -> None:
    make_storage().upload(make_file(8 * MIB), f"{prefix}/x")
    last = f"bytes={7 * MIB}-{8 * MIB - 1}"
    damaged = faults.Answer(status=403, code="AccessDenied")
    proxy = make_proxy(lambda request: damaged if request.range == last else None)

    with pytest.raises(AccessDenied, match=r"access to .* is denied"):
        make_storage(endpoint_url=proxy.url).download(f"{prefix}/x", tmp_path / "x")

    assert not (tmp_path / "x").exists()


class Watch:
    """Looks all the time at final names: whatever is visible there must be whole."""

    def __init__(self, storage: Storage, prefix: str, folder: Path, *, size: int) -> None:
        self._storage, self._prefix, self._folder, self._size = storage, prefix, folder, size
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.partial: list[str] = []
        self.looks = 0

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.looks += 1
            for path in self._folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # its test was done with it
                    if not path.name.startswith(".") and hash_of(path) != path.name:
                        self.partial.append(path.name)
            self.partial += [found.uri for found in self._storage.list(self._prefix) if found.size != self._size]

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def hash_of(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@pytest.mark.parametrize(
    "transfers",
    [pytest.param(50, id="50"), pytest.param(1000, id="1000", marks=[pytest.mark.long, pytest.mark.timeout(3000)])],
)
def test_all_transfers_through_a_failing_server_arrive_whole(
    make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str, tmp_path: Path, transfers: int
) -> None:
    proxy = make_proxy(faults.Faults(seed=transfers))
    storage = make_storage(
        endpoint_url=proxy.url, patience_seconds=300.0, read_timeout_seconds=1.0, download_part_bytes=2 * MIB
    )
    for name in ("source", "got"):
        (tmp_path / name).mkdir()

    def there_and_back(number: int) -> None:
        content = random.Random(number).randbytes(8 * MIB)
        name = hashlib.sha256(content).hexdigest()
        source = tmp_path / "source" / name
        source.write_bytes(content)
        storage.upload(source, f"{prefix}/{name}")
        source.unlink()
        arrived = storage.download(f"{prefix}/{name}", tmp_path / "got" / name)
        results.append(arrived.sha256 == name == hash_of(tmp_path / "got" / name))
        (tmp_path / "got" / name).unlink()
        storage.delete(f"{prefix}/{name}")

    results: list[bool] = []
    with Watch(make_storage(), prefix, tmp_path / "got", size=8 * MIB) as watch, ThreadPoolExecutor(12) as pool:
        list(pool.map(there_and_back, range(transfers // 2)))

    failed = [exchange.status for exchange in proxy.exchanges() if exchange.status >= 500]
    assert results == [True] * (transfers // 2)
    assert watch.partial == []
    assert watch.looks > 0
    assert len(failed) > transfers
