"""Counting what is fetched, from any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchProgress:
    """How far one input has come."""

    field: str
    """Of the manifest."""
    uri: str
    files_done: int = 0
    """Fetched or found."""
    files: int = 0
    bytes_done: int = 0
    bytes: int = 0
    """To be transferred and found; for a tar, which is read until all is found, at most this."""


class Tally:
    """Totals of a fetch; `report` is called by one thread at a time."""

    def __init__(self, report: Callable[[FetchProgress], None] | None) -> None:
        self._report = report
        self._guard = threading.Lock()
        self._progress = FetchProgress(field="", uri="")
        self.fetched_files = self.fetched_bytes = self.found_files = self.found_bytes = 0

    def begin(self, field: str, uri: str, *, files: int, size: int) -> None:
        """The next input: how many files and bytes it has."""
        with self._guard:
            self._tell(FetchProgress(field=field, uri=uri, files=files, bytes=size))

    def expect(self, size: int) -> None:
        """Bytes that will be transferred, once they are known."""
        with self._guard:
            self._tell(replace(self._progress, bytes=self._progress.bytes_done + size))

    def found(self, *, files: int, size: int) -> None:
        """These need not be fetched."""
        with self._guard:
            self.found_files += files
            self.found_bytes += size
            self._advance(files, size)

    def moved(self, count: int) -> None:
        """Bytes have arrived."""
        with self._guard:
            self.fetched_bytes += count
            self._advance(0, count)

    def finished(self, files: int = 1) -> None:
        """Files are complete."""
        with self._guard:
            self.fetched_files += files
            self._advance(files, 0)

    def _advance(self, files: int, size: int) -> None:
        now = self._progress
        self._tell(replace(now, files_done=now.files_done + files, bytes_done=now.bytes_done + size))

    def _tell(self, progress: FetchProgress) -> None:
        self._progress = progress
        if self._report is not None:
            self._report(progress)
