"""The operations on plain paths."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from semires_trainer.errors import SemiresError
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import AccessDenied, ChecksumMismatch, NoSuchKey, TooLarge


@pytest.fixture
def files() -> Storage:
    return Storage()


def test_a_file_is_copied_and_its_sha256_told(files: Storage, make_file: Callable[..., Path], tmp_path: Path) -> None:
    source = make_file(3_000_000)

    moved = files.download(f"file://{source}", tmp_path / "new" / "copy.bin")

    assert (tmp_path / "new" / "copy.bin").read_bytes() == source.read_bytes()
    assert (moved.size, moved.sha256) == (3_000_000, hashlib.sha256(source.read_bytes()).hexdigest())


def test_a_file_with_another_sha256_is_not_copied(
    files: Storage, make_file: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ChecksumMismatch, match="is not the right content"):
        files.download(str(make_file(100)), tmp_path / "copy" / "x", sha256="0" * 64)

    assert list((tmp_path / "copy").iterdir()) == []


def test_a_copy_that_is_there_is_left_alone(files: Storage, make_file: Callable[..., Path], tmp_path: Path) -> None:
    source = make_file(100)
    sha256 = files.upload(source, str(tmp_path / "copy")).sha256

    assert files.upload(source, str(tmp_path / "copy"), sha256=sha256).moved == 0


def test_files_below_a_folder_are_listed_in_order_without_hidden_ones(files: Storage, tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", ".part", ".hidden/x"):
        files.put_if_absent(str(tmp_path / name), b"x")

    listed = [Path(found.uri).relative_to(tmp_path) for found in files.list(str(tmp_path))]

    assert [str(path) for path in listed] == ["a", "b/1", "b/2"]


def test_only_the_first_of_two_writers_writes(files: Storage, tmp_path: Path) -> None:
    uri = str(tmp_path / "run.json")

    first, second = files.put_if_absent(uri, b"first"), files.put_if_absent(uri, b"second")

    assert first is not None
    assert second is None
    assert files.read_bytes(uri).data == b"first"


def test_the_same_content_may_be_written_twice(files: Storage, tmp_path: Path) -> None:
    uri = str(tmp_path / "run.json")

    assert files.put_if_absent(uri, b"same") == files.put_if_absent(uri, b"same") is not None


def test_a_swap_needs_the_etag_of_what_is_there(files: Storage, tmp_path: Path) -> None:
    uri = str(tmp_path / "owner.json")
    old = files.put_if_absent(uri, b"1") or ""

    assert files.compare_and_swap(uri, b"2", etag=old) is not None
    assert files.compare_and_swap(uri, b"3", etag=old) is None
    assert files.read_bytes(uri).data == b"2"


def test_a_folder_is_not_a_file(files: Storage, tmp_path: Path) -> None:
    assert not files.exists(str(tmp_path))
    with pytest.raises(SemiresError, match="is a folder"):
        files.download(str(tmp_path), tmp_path / "copy")


def test_an_absent_file_is_named(files: Storage, tmp_path: Path) -> None:
    with pytest.raises(NoSuchKey, match=f"there is no {tmp_path}/absent"):
        files.download(str(tmp_path / "absent"), tmp_path / "copy")


def test_more_than_expected_is_not_read(files: Storage, make_file: Callable[..., Path]) -> None:
    with pytest.raises(TooLarge, match="more than the 10 bytes"):
        files.read_bytes(str(make_file(11)), max_bytes=10)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_denied(files: Storage, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)

    with pytest.raises(AccessDenied, match="no permission"):
        files.put_if_absent(str(tmp_path / "closed" / "x"), b"x")
