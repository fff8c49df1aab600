"""A file made of ranges that can be read in any order."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

from semires_trainer.storage.results import Stat

ReadRange = Callable[[int, int], bytes]
"""The bytes from a start (inclusive) to a stop (exclusive)."""


class RangedFile(io.RawIOBase):
    """A read-only file over `read_range`. Threads may share `read_range`, but not the position."""

    def __init__(self, stat: Stat, read_range: ReadRange) -> None:
        super().__init__()
        self.stat = stat
        self.read_range = read_range
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.stat.size}[whence]
        if base + offset < 0:
            raise OSError("a position before the start of the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the file goes."""
        stop = min(self._position + len(buffer), self.stat.size)
        if stop <= self._position:
            return 0
        data = self.read_range(self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
