"""Members of a zip that lies in a storage service: its directory, then only the ranges that hold them."""

from __future__ import annotations

import threading
import zipfile
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from semires_trainer.data.images import archive_errors, check_size, index_members, reading
from semires_trainer.storage import RangedFile

TAIL_BYTES = 2**20
"""Read first: where the directory is, and all of a small one."""
SPAN_BYTES = 4 * 2**20
"""Neighbouring members share a request up to this size ..."""
GAP_BYTES = 2**17
"""... and with gaps up to this size: about what is transferred while a request waits for its answer."""
CONTENT_BYTES = 64 * 2**20
"""... and with contents up to this size, which are in memory."""
_HEADER_BYTES = 30 + 2 * 2**16
"""Most that lies between a member's start and its data: a fixed part, the name, extra fields."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Members that are fetched by one request."""

    span: range
    """Bytes of the zip."""
    items: tuple[tuple[str, zipfile.ZipInfo], ...]
    """(name of the image, member)."""

    @property
    def size(self) -> int:
        """Bytes of the contents."""
        return sum(member.file_size for _, member in self.items)


class ZipReader:
    """Reads members by `zipfile`, which checks their CRC. Threads may share it: requests run side by side."""

    def __init__(self, remote: RangedFile) -> None:
        self._remote = remote
        self._guard = threading.Lock()
        self._start = max(0, remote.stat.size - TAIL_BYTES)
        self._held = remote.read_range(self._start, remote.stat.size)
        self.file = RangedFile(remote.stat, self._read_range)

    def open(self) -> None:
        """Read the directory; DataError if it is damaged."""
        with archive_errors(self.file.stat.uri):
            self._archive = zipfile.ZipFile(self.file)
            members = [item.filename for item in self._archive.infolist() if not item.is_dir()]
        self._members = index_members(members)

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are not in it."""
        return [name for name in names if name not in self._members]

    def batches(self, names: Iterable[str]) -> list[Batch]:
        """The requests that bring `names`, each in the directory; DataError for an image that is too large."""
        items = [(name, self._archive.getinfo(self._members[name])) for name in names]
        for name, member in items:
            check_size(member.file_size, name, self.file.stat.uri)
        everything = self._archive.infolist()
        return plan_batches(items, everything, end=min(self._archive.start_dir, self.file.stat.size))

    def read(self, batch: Batch) -> list[tuple[str, bytes]]:
        """Names and contents; DataError naming an image that is damaged or encrypted."""
        held = self._remote.read_range(batch.span.start, batch.span.stop)
        with self._guard:
            self._start, self._held = batch.span.start, held
            return [(name, self._read_member(name, member)) for name, member in batch.items]

    def _read_member(self, name: str, member: zipfile.ZipInfo) -> bytes:
        with reading(name, self.file.stat.uri):
            return self._archive.read(member)

    def _read_range(self, start: int, stop: int) -> bytes:
        """From what is held, else from the service."""
        if self._start <= start and stop <= self._start + len(self._held):
            return self._held[start - self._start : stop - self._start]
        return self._remote.read_range(start, stop)


def plan_batches(
    items: Iterable[tuple[str, zipfile.ZipInfo]], everything: Iterable[zipfile.ZipInfo], *, end: int
) -> list[Batch]:
    """Few requests for `items`, of all members `everything`, whose data ends at byte `end`."""
    starts = sorted({member.header_offset for member in everything} | {end})
    batches: list[Batch] = []
    for name, member in sorted(items, key=lambda item: item[1].header_offset):
        span = _span(member, starts, end=end)
        last = batches[-1] if batches else None
        if last is not None and _joins(last, span, member):
            joined = range(last.span.start, max(last.span.stop, span.stop))
            batches[-1] = Batch(span=joined, items=(*last.items, (name, member)))
        else:
            batches.append(Batch(span=span, items=((name, member),)))
    return batches


def _span(member: zipfile.ZipInfo, starts: Sequence[int], *, end: int) -> range:
    """Where a member lies: up to the next one, unless there is more between them than it can need."""
    following = bisect_right(starts, member.header_offset)
    stop = starts[following] if following < len(starts) else end
    return range(max(0, member.header_offset), min(stop, member.header_offset + _HEADER_BYTES + member.compress_size))


def _joins(batch: Batch, span: range, member: zipfile.ZipInfo) -> bool:
    return (
        span.start - batch.span.stop <= GAP_BYTES
        and span.stop - batch.span.start <= SPAN_BYTES
        and batch.size + member.file_size <= CONTENT_BYTES
    )
