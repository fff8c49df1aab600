"""The operations on a real S3 server."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.errors import ConfigError
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import ChecksumMismatch, NoSuchKey, ObjectChanged, TooLarge

MIB = 2**20
MakeFile = Callable[..., Path]
MakeStorage = Callable[..., Storage]


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(0, id="empty"),
        pytest.param(1, id="one-byte"),
        pytest.param(MIB, id="one-range"),
        pytest.param(5 * MIB, id="largest-single-put"),
        pytest.param(5 * MIB + 1, id="last-part-of-one-byte"),
        pytest.param(12 * MIB + 345, id="parts"),
    ],
)
def test_a_file_comes_back_as_it_was(
    storage: Storage, prefix: str, make_file: MakeFile, tmp_path: Path, size: int
) -> None:
    source = make_file(size)
    sent = storage.upload(source, f"{prefix}/ü weights+%20.bin")

    fetched = storage.download(f"{prefix}/ü weights+%20.bin", tmp_path / "got" / "weights.bin")

    assert (tmp_path / "got" / "weights.bin").read_bytes() == source.read_bytes()
    assert (sent.size, sent.sha256) == (size, hashlib.sha256(source.read_bytes()).hexdigest())
    assert (fetched.size, fetched.sha256, fetched.moved) == (size, sent.sha256, size)
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["weights.bin"]


def test_the_sha256_is_kept_with_the_object(storage: Storage, prefix: str, make_file: MakeFile) -> None:
    sha256 = storage.upload(make_file(6 * MIB), f"{prefix}/x").sha256

    found = storage.stat(f"{prefix}/x")

    assert found is not None
    assert (found.size, found.sha256) == (6 * MIB, sha256)


def test_an_object_that_is_there_is_not_sent_again(
    make_storage: MakeStorage, make_proxy: Any, prefix: str, make_file: MakeFile
) -> None:
    proxy = make_proxy()
    storage = make_storage(endpoint_url=proxy.url)
    storage.upload(make_file(6 * MIB), f"{prefix}/x")
    proxy.forget()

    again = storage.upload(make_file(6 * MIB), f"{prefix}/x")

    assert again.moved == 0
    assert {exchange.request.method for exchange in proxy.exchanges()} == {"HEAD"}


def test_a_file_that_is_there_is_not_fetched_again(
    storage: Storage, prefix: str, make_file: MakeFile, tmp_path: Path
) -> None:
    storage.upload(make_file(2 * MIB), f"{prefix}/x")
    storage.download(f"{prefix}/x", tmp_path / "x")

    assert storage.download(f"{prefix}/x", tmp_path / "x").moved == 0


def test_a_file_with_other_content_is_replaced(
    storage: Storage, prefix: str, make_file: MakeFile, tmp_path: Path
) -> None:
    source = make_file(2 * MIB)
    storage.upload(source, f"{prefix}/x")
    (tmp_path / "x").write_bytes(bytes(2 * MIB))

    storage.download(f"{prefix}/x", tmp_path / "x")

    assert (tmp_path / "x").read_bytes() == source.read_bytes()


def test_objects_below_a_folder_are_listed(storage: Storage, prefix: str) -> None:
    for name in ("runs/b", "runs/a/1", "runs2"):
        storage.put_if_absent(f"{prefix}/{name}", b"12")

    listed = [(found.uri.removeprefix(prefix), found.size) for found in storage.list(f"{prefix}/runs")]

    assert listed == [("/runs/a/1", 2), ("/runs/b", 2)]


def test_a_listing_goes_over_pages(server: Any, storage: Storage, prefix: str) -> None:
    folder = server.folder / "buckets" / prefix.removeprefix("s3://")
    folder.mkdir(parents=True)
    for number in range(1005):
        (folder / f"{number:04d}").touch()

    names = [found.uri.rpartition("/")[2] for found in storage.list(prefix)]

    assert names == [f"{number:04d}" for number in range(1005)]


def test_a_deleted_object_is_gone_and_may_be_deleted_again(storage: Storage, prefix: str) -> None:
    storage.put_if_absent(f"{prefix}/x", b"1")
    storage.delete(f"{prefix}/x")
    storage.delete(f"{prefix}/x")

    assert not storage.exists(f"{prefix}/x")


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/folder/"])
def test_a_folder_cannot_be_downloaded(storage: Storage, tmp_path: Path, uri: str) -> None:
    assert not storage.exists(uri)
    with pytest.raises(ConfigError, match="names a folder"):
        storage.download(uri, tmp_path / "x")


def test_more_than_expected_is_not_read(storage: Storage, prefix: str) -> None:
    storage.put_if_absent(f"{prefix}/x", bytes(11))

    with pytest.raises(TooLarge, match="has 11 bytes, at most 10"):
        storage.read_bytes(f"{prefix}/x", max_bytes=10)


def test_a_folder_is_uploaded_with_its_manifest_last(
    make_storage: MakeStorage, make_proxy: Any, prefix: str, make_file: MakeFile
) -> None:
    for name in ("weights.bin", "manifest.json", "zero.json", ".hidden"):
        make_file(10, name=name)
    proxy = make_proxy()

    sent = make_storage(endpoint_url=proxy.url).upload_directory(make_file(10).parent, prefix)

    puts = [exchange.request.path for exchange in proxy.exchanges() if exchange.request.method == "PUT"]
    assert [path.rpartition("/")[2] for path in puts] == ["weights.bin", "zero.json", "manifest.json"]
    assert len(sent) == 3


def test_a_folder_without_a_manifest_is_not_uploaded(storage: Storage, prefix: str, make_file: MakeFile) -> None:
    with pytest.raises(NoSuchKey, match=r"there is no manifest\.json"):
        storage.upload_directory(make_file(10).parent, prefix)

    assert list(storage.list(prefix)) == []


def test_of_writers_that_race_exactly_one_creates(make_storage: MakeStorage, prefix: str) -> None:
    storage, start = make_storage(), threading.Barrier(8)

    def create(number: int) -> str | None:
        start.wait()
        return storage.put_if_absent(f"{prefix}/owner.json", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        etags = list(pool.map(create, range(8)))

    winners = [number for number, etag in enumerate(etags) if etag is not None]
    assert len(winners) == 1
    assert storage.read_bytes(f"{prefix}/owner.json").data == str(winners[0]).encode()


def test_of_writers_that_race_exactly_one_swaps(make_storage: MakeStorage, prefix: str) -> None:
    storage, start = make_storage(), threading.Barrier(8)
    old = storage.put_if_absent(f"{prefix}/owner.json", b"old") or ""

    def swap(number: int) -> str | None:
        start.wait()
        return storage.compare_and_swap(f"{prefix}/owner.json", str(number).encode(), etag=old)

    with ThreadPoolExecutor(8) as pool:
        etags = list(pool.map(swap, range(8)))

    winners = [number for number, etag in enumerate(etags) if etag is not None]
    assert len(winners) == 1
    assert storage.read_bytes(f"{prefix}/owner.json").data == str(winners[0]).encode()


def test_a_swap_of_something_gone_is_refused(storage: Storage, prefix: str) -> None:
    assert storage.compare_and_swap(f"{prefix}/owner.json", b"2", etag='"1"') is None


def test_a_write_whose_answer_was_lost_is_recognised_as_ours(
    make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str
) -> None:
    lost = iter([faults.RESET_ANSWER])
    proxy = make_proxy(lambda request: next(lost, None) if request.method == "PUT" else None)
    storage = make_storage(endpoint_url=proxy.url, patience_seconds=30.0)

    etag = storage.put_if_absent(f"{prefix}/run.json", b"mine")

    assert etag is not None
    assert storage.read_bytes(f"{prefix}/run.json").etag == etag


def test_a_server_that_ignores_conditions_is_told_of_once_and_used_without(
    make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    accepted = faults.Answer(status=200, headers={"ETag": '"1"'})
    storage = make_storage(endpoint_url=make_proxy(lambda request: accepted if request.conditional else None).url)
    with caplog.at_level(logging.WARNING):
        storage.put_if_absent(f"{prefix}/a", b"1")
        first, second = storage.put_if_absent(f"{prefix}/b", b"1"), storage.put_if_absent(f"{prefix}/b", b"2")
        storage.compare_and_swap(f"{prefix}/b", b"3", etag=first or "")

    assert second is None
    assert storage.read_bytes(f"{prefix}/b").data == b"3"
    assert ["conditional writes" in record.message for record in caplog.records] == [True]


def test_a_server_that_refuses_conditions_is_told_of(
    make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = iter([faults.Answer(status=501, code="NotImplemented")])
    proxy = make_proxy(lambda request: next(refusals, None) if request.method == "PUT" else None)

    with caplog.at_level(logging.WARNING):
        etag = make_storage(endpoint_url=proxy.url).put_if_absent(f"{prefix}/a", b"1")

    assert etag is not None
    assert "does not support conditional writes" in caplog.text


def test_an_object_that_changes_while_it_is_read_is_read_again(
    make_storage: MakeStorage, make_proxy: Any, storage: Storage, prefix: str, make_file: MakeFile, tmp_path: Path
) -> None:
    storage.upload(make_file(3 * MIB, name="old", seed=1), f"{prefix}/x")
    new = make_file(3 * MIB, name="new", seed=2)

    def replace_after_head(request: Any) -> None:
        if request.method == "GET" and not replaced.is_set():
            replaced.set()
            storage.upload(new, f"{prefix}/x")

    replaced = threading.Event()
    proxy = make_proxy(replace_after_head)

    make_storage(endpoint_url=proxy.url, transfers=1).download(f"{prefix}/x", tmp_path / "x")

    assert (tmp_path / "x").read_bytes() == new.read_bytes()


def test_a_file_that_changes_while_it_is_sent_is_not_published(
    make_storage: MakeStorage, make_proxy: Any, prefix: str, make_file: MakeFile
) -> None:
    source = make_file(6 * MIB)

    def change(request: Any) -> None:
        if request.moves_content:
            source.write_bytes(bytes(6 * MIB + 1))

    proxy = make_proxy(change)
    storage = make_storage(endpoint_url=proxy.url)

    with pytest.raises(ObjectChanged, match="was changed while it was uploaded"):
        storage.upload(source, f"{prefix}/x")

    assert not storage.exists(f"{prefix}/x")


def test_a_damaged_file_is_not_sent(storage: Storage, prefix: str, make_file: MakeFile) -> None:
    with pytest.raises(ChecksumMismatch, match="is damaged"):
        storage.upload(make_file(100), f"{prefix}/x", sha256="0" * 64)

    assert not storage.exists(f"{prefix}/x")
