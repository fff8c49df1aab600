"""Members of a tar that lies in a storage service: it has no directory, so it is read until all are found."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, cast

from semires_trainer.data.images import archive_errors, check_size, is_plain_file, plain_name, reading
from semires_trainer.errors import DataError
from semires_trainer.storage import RangedFile
from semires_trainer.storage.results import OnBytes

PART_BYTES = 4 * 2**20
PARTS_AHEAD = 6
"""Requests in flight: one connection alone is slower than a service can send."""
_BUFFER_BYTES = 2**20


class ReadAhead(io.RawIOBase):
    """A remote file from its beginning to its end, parts arriving in parallel while earlier ones are read."""

    def __init__(self, remote: RangedFile, *, on_bytes: OnBytes) -> None:
        super().__init__()
        self._remote = remote
        self._on_bytes = on_bytes
        self._pool = ThreadPoolExecutor(max_workers=PARTS_AHEAD)
        self._coming: deque[Future[bytes]] = deque()
        self._asked = 0
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """At most the rest of one part."""
        if not self._rest:
            self._rest = memoryview(self._next_part())
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        """Wait for the parts that are on their way."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        super().close()

    def _next_part(self) -> bytes:
        size = self._remote.stat.size
        while self._asked < size and len(self._coming) < PARTS_AHEAD:
            stop = min(self._asked + PART_BYTES, size)
            self._coming.append(self._pool.submit(self._remote.read_range, self._asked, stop))
            self._asked = stop
        if not self._coming:
            return b""
        part = self._coming.popleft().result()
        self._on_bytes(len(part))
        return part


def tar_images(stream: io.RawIOBase, names: Iterable[str], *, source: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of those of `names` that are found, until all are; plain or compressed.

    As in `data.images.index_members`, a name may lack the folder that the tar was made of; the full name wins, and is
    then given a second time. DataError for a damaged archive, a damaged member, and two members for one name.
    """
    # tarfile only calls `read`; the type asks for a whole IO.
    buffered = cast(IO[bytes], io.BufferedReader(stream, _BUFFER_BYTES))
    with contextlib.ExitStack() as opened:
        with archive_errors(source):
            archive = opened.enter_context(tarfile.open(fileobj=buffered, mode="r|*"))
        yield from _find_images(archive, frozenset(names), source=source)


def _find_images(archive: tarfile.TarFile, wanted: frozenset[str], *, source: str) -> Iterator[tuple[str, bytes]]:
    found: set[str] = set()
    short_of: dict[str, str] = {}
    while found != wanted:
        with archive_errors(source):
            member = archive.next()
        if member is None:
            return
        archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all, for links that we don't follow
        full = plain_name(member.name)
        name = full if full in wanted else full.split("/", 1)[-1]
        if name not in wanted or not is_plain_file(member):
            continue
        if name != full and name in short_of:
            _refuse_second(name, short_of[name], member.name, source=source)
        if name != full and name in found:
            continue
        if name != full:
            short_of[name] = member.name
        yield name, _content(archive, member, name, source=source)
        found.add(name)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, *, source: str) -> bytes:
    check_size(member.size, name, source)
    with reading(name, source):
        handle = archive.extractfile(member)
        return handle.read() if handle is not None else b""


def _refuse_second(name: str, first: str, second: str, *, source: str) -> None:
    problem = f"image {name} may be {first} or {second} in {source}"
    raise DataError(problem, field="spec.dataset.images", remedy="Keep one of them, or give file names with folders")
