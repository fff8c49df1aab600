"""Folders of fetched files that survive a kill at any instant and are shared by processes.

<cache>/files/<key>/NAME           one object
<cache>/folders/<key>/             a prefix, complete; `.<key>.part` until then
<cache>/images/<key>/              the images of a prefix or an archive that somebody needed so far
<cache>/images/.<key>.journal      which of them are whole and on the disk; locked while a process adds some
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from semires_trainer.atomic import sync_directory
from semires_trainer.storage.failures import DiskFull
from semires_trainer.storage.parallel import Cancelled

FILES_PER_COMMIT = 256
"""Files that are synced together, and at most as many that a kill makes us fetch again."""
_POLL_SECONDS = 0.1
_SYNCFS = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)


def key_of(*parts: object) -> str:
    """A folder's name for what is told apart by `parts` (JSON values)."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def check_room(folder: Path, size: int, *, what: str) -> None:
    """DiskFull unless `size` bytes are free where `folder` lies."""
    free = shutil.disk_usage(folder).free
    if free < size:
        problem = f"{what} needs {size} bytes, {free} are free on the disk of {folder}"
        raise DiskFull(problem, remedy="Free space, or use another disk for the cache")


@contextlib.contextmanager
def locked(path: Path, should_stop: Callable[[], bool]) -> Iterator[int]:
    """The file at `path`, made if need be, open and ours alone; Cancelled if we are to stop before we get it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not _try_lock(descriptor):
            if should_stop():
                raise Cancelled
            time.sleep(_POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file that is whole."""

    size: int
    etag: str
    """Of the object it came from; empty for members of an archive, whose etag is in the key of the folder."""


class Shelf:
    """A folder of whole files, as its journal lists them; ours alone while it is open. Threads may put files."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor
        self._guard = threading.Lock()
        self._pending: dict[str, Entry] = {}
        content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        whole = content[: content.rfind(b"\n") + 1]  # a kill may have torn the last line
        os.ftruncate(descriptor, len(whole))
        self._entries = parse_journal(whole)

    def get(self, name: str) -> Entry | None:
        """The entry of a file that is there."""
        entry = self._entries.get(name)
        return entry if entry is not None and file_size(self.folder / name) == entry.size else None

    def put(self, name: str, content: bytes, *, etag: str = "") -> None:
        """Add or replace a file: atomically, and on the disk before the journal lists it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.folder.with_name(f".{self.folder.name}.{threading.get_ident()}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)
        self.add(name, Entry(size=len(content), etag=etag))

    def add(self, name: str, entry: Entry) -> None:
        """List a file that is in the folder already."""
        with self._guard:
            self._pending[name] = entry
            batch = self._take(FILES_PER_COMMIT)
        self._commit(batch)

    def commit(self) -> None:
        """Make everything durable."""
        with self._guard:
            batch = self._take(1)
        self._commit(batch)

    def forget(self) -> None:
        """Empty the journal: the folder has moved."""
        self._entries = {}
        os.ftruncate(self._descriptor, 0)

    def _take(self, least: int) -> dict[str, Entry]:
        if len(self._pending) < least:
            return {}
        batch, self._pending = self._pending, {}
        return batch

    def _commit(self, batch: dict[str, Entry]) -> None:
        if not batch:
            return
        _sync(self.folder, [self.folder / name for name in batch])
        lines = [json.dumps([name, entry.size, entry.etag]) + "\n" for name, entry in batch.items()]
        with self._guard:
            os.lseek(self._descriptor, 0, os.SEEK_END)
            os.write(self._descriptor, "".join(lines).encode())
            self._entries.update(batch)


def parse_journal(content: bytes) -> dict[str, Entry]:
    """Name -> entry of the newest line of each; unreadable lines say nothing."""
    entries = {}
    for line in content.splitlines():
        with contextlib.suppress(ValueError, TypeError):
            name, size, etag = json.loads(line)
            entries[str(name)] = Entry(size=int(size), etag=str(etag))
    return entries


@contextlib.contextmanager
def open_shelf(folder: Path, should_stop: Callable[[], bool]) -> Iterator[Shelf]:
    """The shelf at `folder`; another process that has it open is waited for."""
    with locked(folder.with_name(f".{folder.name}.journal"), should_stop) as descriptor:
        for abandoned in folder.parent.glob(f".{folder.name}.*.tmp"):
            abandoned.unlink()
        folder.mkdir(exist_ok=True)
        shelf = Shelf(folder, descriptor)
        try:
            yield shelf
        finally:
            shelf.commit()


def file_size(path: Path) -> int | None:
    """Bytes of a regular file, or None where there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _sync(folder: Path, paths: Sequence[Path]) -> None:
    """Have files below `folder` on the disk, with their names.

    By one syncfs: an fsync for each file commits the file system's journal each time, which on a busy disk takes longer
    than fetching it. Where there is no syncfs (macOS) it is done so.
    """
    if _SYNCFS is None:
        for path in paths:
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        for parent in {path.parent for path in paths}:
            sync_directory(parent)
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _SYNCFS(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)
