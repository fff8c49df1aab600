"""Reading parts of objects and files, being told of bytes, and ending when asked to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.storage import Storage
from semires_trainer.storage.failures import ChecksumMismatch, NoSuchKey, ObjectChanged
from semires_trainer.storage.parallel import Cancelled

MIB = 2**20
MakeFile = Callable[..., Path]
MakeStorage = Callable[..., Storage]


@pytest.fixture(params=["object", "file"])
def uri(request: pytest.FixtureRequest, storage: Storage, make_file: MakeFile, prefix: str) -> str:
    if request.param == "file":
        return str(make_file(3 * MIB))
    storage.upload(make_file(3 * MIB), f"{prefix}/x")
    return f"{prefix}/x"


def test_any_part_can_be_read(storage: Storage, uri: str, make_file: MakeFile) -> None:
    content = make_file(3 * MIB).read_bytes()
    file = storage.open(uri)

    assert file.stat.size == 3 * MIB
    assert file.read(10) == content[:10]
    assert file.read(5) == content[10:15]
    assert (file.seek(-7, 2), file.read()) == (3 * MIB - 7, content[-7:])
    assert file.read(1) == b""
    assert file.read_range(MIB - 3, 2 * MIB + 3) == content[MIB - 3 : 2 * MIB + 3]


def test_what_is_not_there_cannot_be_opened(storage: Storage, prefix: str, tmp_path: Path) -> None:
    for uri in (f"{prefix}/absent", str(tmp_path / "absent")):
        with pytest.raises(NoSuchKey, match=r"there is no .*absent"):
            storage.open(uri)


def test_parts_of_two_objects_are_never_mixed(storage: Storage, prefix: str, make_file: MakeFile) -> None:
    storage.upload(make_file(MIB, seed=1), f"{prefix}/x")
    file = storage.open(f"{prefix}/x")
    storage.upload(make_file(MIB, seed=2), f"{prefix}/x")

    with pytest.raises(ObjectChanged):
        file.read_range(0, 10)


def test_a_part_goes_on_where_its_connection_broke(
    make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str, make_file: MakeFile
) -> None:
    make_storage().upload(make_file(16 * MIB), f"{prefix}/x")
    broken = iter([faults.RESET_BODY])
    proxy = make_proxy(lambda request: next(broken, None) if request.range else None)

    data = make_storage(endpoint_url=proxy.url, patience_seconds=30.0).open(f"{prefix}/x").read_range(0, 16 * MIB)

    assert data == make_file(16 * MIB).read_bytes()
    starts = [int(exchange.request.range[6:].split("-")[0]) for exchange in proxy.exchanges() if exchange.request.range]
    assert 0 < starts[1] <= 8 * MIB


def test_bytes_are_told_while_they_arrive(storage: Storage, uri: str, tmp_path: Path) -> None:
    told: list[int] = []

    storage.download(uri, tmp_path / "copy", on_bytes=told.append)

    assert sum(told) == 3 * MIB


def test_small_content_is_compared_with_its_recorded_sha256(
    storage: Storage, server: Any, prefix: str, make_file: MakeFile
) -> None:
    storage.upload(make_file(100), f"{prefix}/x")
    stored = server.folder / "buckets" / prefix.removeprefix("s3://") / "x"
    stored.write_bytes(bytes(100))

    with pytest.raises(ChecksumMismatch, match="is not the right content"):
        storage.read_bytes(f"{prefix}/x")


def test_a_transfer_ends_when_it_is_asked_to_and_can_be_resumed(
    storage: Storage, prefix: str, make_file: MakeFile, tmp_path: Path
) -> None:
    storage.upload(make_file(8 * MIB), f"{prefix}/x")
    enough = threading.Event()

    with pytest.raises(Cancelled):
        storage.stopping(enough.is_set).download(f"{prefix}/x", tmp_path / "x", on_bytes=lambda _: enough.set())

    assert not (tmp_path / "x").exists()
    assert storage.download(f"{prefix}/x", tmp_path / "x").size == 8 * MIB


def test_pauses_end_when_asked_to(
    make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semires_trainer.storage.client.ATTEMPTS", 1)
    asked = threading.Event()

    def refuse(_request: Any) -> Any:
        asked.set()
        return faults.Answer(status=503)

    storage = make_storage(endpoint_url=make_proxy(refuse).url, patience_seconds=3600.0)

    with pytest.raises(Cancelled):
        storage.stopping(asked.is_set).read_bytes(f"{prefix}/x")
