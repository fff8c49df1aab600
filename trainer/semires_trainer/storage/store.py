"""One API for s3://, file:// and plain paths."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from semires_trainer.storage.digest import checked_sha256
from semires_trainer.storage.failures import NoSuchKey
from semires_trainer.storage.local import LocalFiles
from semires_trainer.storage.ranged_file import RangedFile
from semires_trainer.storage.results import Blob, OnBytes, Stat, Transfer, ignore_bytes
from semires_trainer.storage.settings import StorageSettings
from semires_trainer.storage.uri import Location, parse_uri

if TYPE_CHECKING:
    from semires_trainer.storage.s3 import ObjectStore

SMALL_BYTES = 2**20


class Backend(Protocol):
    """What a kind of storage does; `LocalFiles` and `ObjectStore`."""

    def stat(self, location: Location) -> Stat | None: ...
    def stored_sha256(self, location: Location) -> str: ...
    def list(self, location: Location) -> Iterator[Stat]: ...
    def download(self, location: Location, destination: Path, *, sha256: str | None, on_bytes: OnBytes) -> Transfer: ...
    def open(self, location: Location) -> RangedFile: ...
    def upload(self, path: Path, location: Location, *, sha256: str | None) -> Transfer: ...
    def read_bytes(self, location: Location, *, max_bytes: int) -> Blob: ...
    def put_if_absent(self, location: Location, data: bytes) -> str | None: ...
    def compare_and_swap(self, location: Location, data: bytes, *, etag: str) -> str | None: ...
    def delete(self, location: Location) -> None: ...
    def close(self) -> None: ...


class Storage:
    """Files and objects by URI. Threads may share it; boto3 is loaded at the first s3:// URI.

    All methods raise ConfigError for a malformed URI and the errors of `storage.failures`.
    """

    def __init__(self, settings: StorageSettings | None = None) -> None:
        self._settings = settings or StorageSettings()
        self._files = LocalFiles()
        self._objects: ObjectStore | None = None
        self._guard = threading.Lock()

    def stopping(self, should_stop: Callable[[], bool]) -> Storage:
        """The same storage, where calls on s3:// soon end with Cancelled once `should_stop()` is true.

        Threads ask it. It shares our connections, which are ours to close.
        """
        view = Storage(self._settings)
        view._objects = self._object_store().stopping(should_stop)
        return view

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next s3:// URI opens new ones."""
        with self._guard:
            if self._objects is not None:
                self._objects.close()
                self._objects = None

    def exists(self, uri: str) -> bool:
        """Whether there is such an object or file (not: folder)."""
        return self.stat(uri) is not None

    def stat(self, uri: str) -> Stat | None:
        """Size, etag and recorded sha256, or None."""
        backend, location = self._find(uri)
        return backend.stat(location)

    def stored_sha256(self, uri: str) -> str:
        """sha256 of an object without reading it, if the server or our upload recorded one; else empty. NoSuchKey."""
        backend, location = self._find(uri)
        return backend.stored_sha256(location)

    def list(self, uri: str) -> Iterator[Stat]:
        """Everything below `uri` as a folder, in order of the names of each folder (of the keys for s3://)."""
        backend, location = self._find(uri)
        return backend.list(location)

    def download(
        self, uri: str, destination: Path, *, sha256: str | None = None, on_bytes: OnBytes = ignore_bytes
    ) -> Transfer:
        """Fetch to `destination`, whole and verified or not at all; resumes what an earlier call began.

        Checked against `sha256`, else against the checksum recorded by `upload`. `on_bytes(count)` is told of bytes
        that have arrived, from several threads.
        """
        backend, location = self._find(uri)
        return backend.download(location, destination, sha256=checked_sha256(sha256), on_bytes=on_bytes)

    def open(self, uri: str) -> RangedFile:
        """A file for reading in any order, each read a request. ObjectChanged once it is replaced; NoSuchKey."""
        backend, location = self._find(uri)
        return backend.open(location)

    def upload(self, path: Path, uri: str, *, sha256: str | None = None) -> Transfer:
        """Make `uri` hold the content of `path`, verified; resumes, and sends nothing if it is there already.

        A known `sha256` is checked against the file and saves hashing one that is there already.
        """
        backend, location = self._find(uri)
        return backend.upload(path, location, sha256=checked_sha256(sha256))

    def upload_directory(self, folder: Path, uri: str, *, last: str = "manifest.json") -> tuple[Transfer, ...]:
        """Upload all files below `folder`; `last` after all others, so that its presence says that they are there.

        Hidden files are left out. NoSuchKey if the folder holds no `last`.
        """
        backend, location = self._find(uri)
        relative = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        names = sorted(str(path) for path in relative if not any(part.startswith(".") for part in path.parts))
        if last not in names:
            raise NoSuchKey(f"there is no {last} in {folder}", remedy="Only complete folders can be uploaded")
        names = [*(name for name in names if name != last), last]
        return tuple(backend.upload(folder / name, location.child(name), sha256=None) for name in names)

    def read_bytes(self, uri: str, *, max_bytes: int = SMALL_BYTES) -> Blob:
        """The content of something small, with the etag for `compare_and_swap`; TooLarge, NoSuchKey."""
        backend, location = self._find(uri)
        return backend.read_bytes(location, max_bytes=max_bytes)

    def put_if_absent(self, uri: str, data: bytes) -> str | None:
        """Write `data` unless something else is there: the etag, or None if another was first.

        The same bytes count as ours: a write whose answer was lost succeeds when it is repeated. Writers that race
        must write different bytes.
        """
        backend, location = self._find(uri)
        return backend.put_if_absent(location, data)

    def compare_and_swap(self, uri: str, data: bytes, *, etag: str) -> str | None:
        """Replace what has `etag`: the new etag, or None if it has changed or gone."""
        backend, location = self._find(uri)
        return backend.compare_and_swap(location, data, etag=etag)

    def delete(self, uri: str) -> None:
        """Remove an object or file; absence is no error."""
        backend, location = self._find(uri)
        backend.delete(location)

    def _find(self, uri: str) -> tuple[Backend, Location]:
        location = parse_uri(uri)
        if location.scheme == "file":
            return self._files, location
        return self._object_store(), location

    def _object_store(self) -> ObjectStore:
        with self._guard:
            if self._objects is None:
                from semires_trainer.storage.s3 import ObjectStore

                self._objects = ObjectStore.of(self._settings)
            return self._objects
