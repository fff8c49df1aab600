"""What of a transfer is done: a small file beside it, locked while the transfer runs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Journal:
    """First line: what is transferred (JSON). Each further line: the number of a part that is done."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._guard = threading.Lock()
        content = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("utf-8", errors="replace")
        self.header, self.done = parse_journal(content)

    def restart(self, header: Mapping[str, Any]) -> None:
        """Forget everything: a transfer of `header` begins."""
        self.header, self.done = dict(header), set()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{json.dumps(self.header)}\n".encode(), 0)

    def add(self, number: int) -> None:
        """Part `number` is done, and on the disk."""
        with self._guard:
            os.lseek(self._descriptor, 0, os.SEEK_END)
            os.write(self._descriptor, f"{number}\n".encode())
            self.done.add(number)


def parse_journal(content: str) -> tuple[dict[str, Any], set[int]]:
    """Header and parts done; a torn last line and anything unreadable count as not done."""
    lines = content.split("\n")[:-1]
    try:
        header = json.loads(lines[0])
    except (IndexError, ValueError):
        return {}, set()
    if not isinstance(header, dict):
        return {}, set()
    return header, {int(line) for line in lines[1:] if line.isascii() and line.isdigit()}


@contextlib.contextmanager
def locked_journal(path: Path) -> Iterator[Journal]:
    """The journal at `path`, ours alone: another process with the same transfer waits. Kept on errors only."""
    descriptor = _open_locked(path)
    try:
        yield Journal(descriptor)
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        os.close(descriptor)  # whoever held the lock has finished and removed this file
