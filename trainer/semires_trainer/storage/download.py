"""An object into a file: ranges in parallel, hashed while they arrive, resumed after an interruption.

.NAME.part           what has arrived
.NAME.part.journal   the object's etag, and which parts are complete; locked
NAME                 appears whole and verified, or not at all
"""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from semires_trainer.atomic import file_sha256, sync_directory
from semires_trainer.storage.client import S3
from semires_trainer.storage.digest import is_error_page
from semires_trainer.storage.failures import (
    ChecksumMismatch,
    DiskFull,
    ObjectChanged,
    explain_os_error,
)
from semires_trainer.storage.following import Arrivals, hash_arrivals
from semires_trainer.storage.journal import Journal, locked_journal
from semires_trainer.storage.objects import existing_object
from semires_trainer.storage.parallel import in_order, split
from semires_trainer.storage.ranges import receive
from semires_trainer.storage.results import OnBytes, Stat, Transfer, ignore_bytes
from semires_trainer.storage.settings import MIB, StorageSettings
from semires_trainer.storage.uri import Location

SMALLEST_RANGE = 8 * MIB
"""Below this a request costs more than it gains."""
CHANGES = 3
"""How often an object may be replaced while it is read before we give up."""
_sync = getattr(os, "fdatasync", os.fsync)
"""A part is on the disk before the journal says that it is done; meanwhile others arrive."""
_PAGES = (".html", ".htm", ".xml", ".svg")


def download_object(
    s3: S3, location: Location, destination: Path, *, sha256: str | None, on_bytes: OnBytes = ignore_bytes
) -> Transfer:
    """Fetch an object to `destination`, checked against `sha256` or else the checksum that our upload recorded.

    `on_bytes(count)` is told, from several threads, of bytes that have arrived.
    Raises NoSuchKey, ChecksumMismatch, ObjectChanged, DiskFull and what `S3.call` raises; then `destination` is as it
    was before. A file there that has the right sha256 is kept and nothing is fetched.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with locked_journal(_beside(destination, ".part.journal")) as journal:
            for changes in range(CHANGES, 0, -1):
                try:
                    return _fetch(s3, existing_object(s3, location), destination, journal, sha256, on_bytes)
                except ObjectChanged:
                    if changes == 1:
                        raise
    except OSError as error:
        raise explain_os_error(error, where=str(destination)) from error
    raise AssertionError("not reached")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}{ending}")


def _fetch(
    s3: S3, source: Stat, destination: Path, journal: Journal, sha256: str | None, on_bytes: OnBytes
) -> Transfer:
    expected = sha256 or source.sha256
    if expected and source.sha256 and expected != source.sha256:
        raise _mismatch(source, expected, source.sha256, "")
    if expected and _holds(destination, source.size, expected):
        return Transfer(uri=source.uri, size=source.size, sha256=expected, moved=0)
    temporary = _beside(destination, ".part")
    resumed = _prepare(s3, source, temporary, journal, verified=bool(expected))
    found, moved = _transfer(s3, source, temporary, journal, on_bytes)
    page = _error_page(temporary, destination)
    if (expected and found != expected) or page:
        temporary.unlink()
        journal.restart({})
        if resumed and not page:  # what an earlier process left was damaged: once more, all of it
            return _fetch(s3, source, destination, journal, sha256, on_bytes)
        raise _mismatch(source, expected, found, page)
    os.replace(temporary, destination)
    sync_directory(destination.parent)
    return Transfer(uri=source.uri, size=source.size, sha256=found, moved=moved)


def _holds(path: Path, size: int, sha256: str) -> bool:
    return path.is_file() and path.stat().st_size == size and file_sha256(path) == sha256


def _prepare(s3: S3, source: Stat, temporary: Path, journal: Journal, *, verified: bool) -> bool:
    """Make journal and temporary file fit the object; whether parts of an earlier attempt are kept.

    Where neither a checksum nor an etag can tell whether they belong together, they are not.
    """
    part_bytes = _part_bytes(source.size, s3.settings)
    header = {"uri": source.uri, "etag": source.etag, "size": source.size, "part_bytes": part_bytes}
    fits = journal.header == header and (verified or bool(source.etag))
    if not (fits and temporary.is_file() and temporary.stat().st_size == source.size):
        journal.restart(header)
    present = len(journal.done) * part_bytes
    free = shutil.disk_usage(temporary.parent).free
    if free < source.size - present:
        problem = f"{source.uri} has {source.size} bytes, {free} are free on the disk of {temporary.parent}"
        raise DiskFull(problem, remedy="Free space, or use another disk")
    with temporary.open("ab") as handle:
        handle.truncate(source.size)
    return bool(journal.done)


def _part_bytes(size: int, settings: StorageSettings) -> int:
    """Two ranges a transfer, unless that makes them small or larger than the settings allow."""
    return min(settings.download_part_bytes, max(SMALLEST_RANGE, -(-size // (2 * settings.transfers))))


def _transfer(s3: S3, source: Stat, temporary: Path, journal: Journal, on_bytes: OnBytes) -> tuple[str, int]:
    """Fetch what is missing; sha256 of all and the bytes fetched."""
    parts = split(source.size, _part_bytes(source.size, s3.settings))
    arrivals = Arrivals(parts, journal.done)
    missing = [number for number in range(len(parts)) if number not in journal.done]
    descriptor = os.open(temporary, os.O_RDWR)

    def fetch(number: int, stop: threading.Event) -> None:
        def write(data: bytes, position: int) -> None:
            _write_all(descriptor, memoryview(data), position)
            arrivals.advance(number, position + len(data))
            on_bytes(len(data))

        receive(s3, source, parts[number], write, stop=stop)
        _sync(descriptor)
        journal.add(number)

    try:
        with ThreadPoolExecutor(max_workers=1) as hasher:
            digest = hasher.submit(hash_arrivals, arrivals, descriptor)
            try:
                for _ in in_order(fetch, missing, threads=s3.settings.transfers):
                    pass
            except BaseException:
                arrivals.stop()
                raise
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest.result(), sum(len(parts[number]) for number in missing)


def _write_all(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written


def _error_page(temporary: Path, destination: Path) -> str:
    """What the content seems to be if it is an error page in place of data."""
    if destination.suffix.lower() in _PAGES:
        return ""
    with temporary.open("rb") as handle:
        return "it is a web page or an error message" if is_error_page(handle.read(512)) else ""


def _mismatch(source: Stat, expected: str, found: str, page: str) -> ChecksumMismatch:
    told = f"sha256 {expected[:12]}… is expected, it has {found[:12]}…" if expected and found != expected else ""
    return ChecksumMismatch(
        f"{source.uri} is not the right content: {', '.join(filter(None, (page, told)))}",
        remedy="Upload the file again, or correct the URI or the sha256",
    )
