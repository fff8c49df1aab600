"""The same operations on files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from semires_trainer.atomic import file_sha256, replace_file, sync_directory
from semires_trainer.storage.digest import CHUNK_BYTES
from semires_trainer.storage.failures import ChecksumMismatch, NoSuchKey, TooLarge, explain_os_error
from semires_trainer.storage.ranged_file import RangedFile
from semires_trainer.storage.results import Blob, OnBytes, Stat, Transfer
from semires_trainer.storage.uri import Location


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, where=where) from error


class LocalFiles:
    """Files behind the API of a storage service. Raises NoSuchKey, AccessDenied, DiskFull, ChecksumMismatch."""

    def stat(self, location: Location) -> Stat | None:
        """Size and etag (inode, size, time of change) of a file, or None."""
        with _explained(str(location)):
            try:
                found = location.path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        if not location.path.is_file():
            return None
        etag = f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"
        return Stat(uri=str(location), size=found.st_size, etag=etag)

    def stored_sha256(self, location: Location) -> str:
        """A file system keeps none."""
        return ""

    def list(self, location: Location) -> Iterator[Stat]:
        """All files below a folder, in order; hidden ones are transfers under way and left out."""
        for folder, folders, names in os.walk(location.path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith("."):
                    path = Path(folder) / name
                    yield Stat(uri=str(path), size=path.stat().st_size, etag="")

    def download(self, location: Location, destination: Path, *, sha256: str | None, on_bytes: OnBytes) -> Transfer:
        """Copy, hashing on the way."""
        with _explained(str(location)):
            copied = _copy(location.path, destination, uri=str(location), sha256=sha256)
        on_bytes(copied.moved)
        return copied

    def open(self, location: Location) -> RangedFile:
        """The file for reading in any order; NoSuchKey."""
        found = self.stat(location)
        if found is None:
            raise NoSuchKey(f"there is no {location}", remedy="Correct the path")
        return RangedFile(found, lambda start, stop: _read_range(location.path, start, stop))

    def upload(self, path: Path, location: Location, *, sha256: str | None) -> Transfer:
        """Copy, hashing on the way."""
        with _explained(str(location)):
            return _copy(path, location.path, uri=str(location), sha256=sha256)

    def read_bytes(self, location: Location, *, max_bytes: int) -> Blob:
        """The whole content; TooLarge beyond `max_bytes`."""
        with _explained(str(location)), location.path.open("rb") as handle:
            data = handle.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise TooLarge(f"{location} has more than the {max_bytes} bytes that are expected")
        return Blob(data=data, etag=hashlib.sha256(data).hexdigest())

    def put_if_absent(self, location: Location, data: bytes) -> str | None:
        """Write unless other content is there; the etag, or None if another was first."""
        path = location.path
        with _explained(str(location)):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
            try:
                _write_synced(temporary, data)
                os.link(temporary, path)
                sync_directory(path.parent)
            except FileExistsError:
                return _etag_of(path, data)
            finally:
                temporary.unlink(missing_ok=True)
        return hashlib.sha256(data).hexdigest()

    def compare_and_swap(self, location: Location, data: bytes, *, etag: str) -> str | None:
        """Replace a file whose content has this etag (see `read_bytes`); the new etag, or None."""
        path = location.path
        with _explained(str(location)):
            descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not path.is_file() or file_sha256(path) != etag:
                    return _etag_of(path, data)
                with replace_file(path) as temporary:
                    temporary.write_bytes(data)
            finally:
                os.close(descriptor)
        return hashlib.sha256(data).hexdigest()

    def close(self) -> None:
        """Nothing is open between calls."""

    def delete(self, location: Location) -> None:
        """Remove a file; one that is not there is no error."""
        with _explained(str(location)):
            location.path.unlink(missing_ok=True)


def _read_range(path: Path, start: int, stop: int) -> bytes:
    with _explained(str(path)), path.open("rb") as handle:
        handle.seek(start)
        return handle.read(stop - start)


def _etag_of(path: Path, data: bytes) -> str | None:
    """The etag of `data` if that is what the file holds."""
    etag = hashlib.sha256(data).hexdigest()
    return etag if path.is_file() and file_sha256(path) == etag else None


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _copy(source: Path, target: Path, *, uri: str, sha256: str | None) -> Transfer:
    if source.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, a file is needed", str(source))
    if sha256 and target.is_file() and target.stat().st_size == source.stat().st_size and file_sha256(target) == sha256:
        return Transfer(uri=uri, size=target.stat().st_size, sha256=sha256, moved=0)
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, replace_file(target) as temporary:
        with temporary.open("wb") as writer:
            while chunk := reader.read(CHUNK_BYTES):
                digest.update(chunk)
                writer.write(chunk)
                size += len(chunk)
        found = digest.hexdigest()
        if sha256 and found != sha256:
            problem = f"{source} is not the right content: sha256 {sha256[:12]}… is expected, it has {found[:12]}…"
            raise ChecksumMismatch(problem, remedy="Copy the file again, or correct the path or the sha256")
    return Transfer(uri=uri, size=size, sha256=found, moved=size)
