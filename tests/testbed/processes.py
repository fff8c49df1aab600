"""Processes that outlive the one that started them, known by id and start time, with a log each.

A folder holds their records: whoever finds it later can tell what still runs and end it, and never ends another process
that has got an old id.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed.waiting import wait_until

TAIL_BYTES = 3000


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Names a process for as long as the machine is up."""

    pid: int
    """Process id; given to another process some time after the end of this one."""
    start: int
    """When it started, in clock ticks since boot."""

    @property
    def alive(self) -> bool:
        """It runs; a zombie does not."""
        with contextlib.suppress(ChildProcessError):  # another's child, which another has to bury
            os.waitpid(self.pid, os.WNOHANG)
        state, start = _state_and_start(self.pid)
        return start == self.start and (state not in ("Z", "X") or _has_threads(self.pid))

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(self.pid, number)


def identity_of(pid: int) -> Identity:
    """Of this process or a child of it, which may have ended."""
    _, start = _state_and_start(pid)
    return Identity(pid=pid, start=start)


class Processes:
    """The processes of one folder."""

    def __init__(self, folder: Path, *, prefix: Sequence[str] = ()) -> None:
        """`prefix` stands before each command: how to enter a network namespace, say."""
        self.folder, self._prefix = folder, tuple(prefix)
        (folder / "processes").mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[object], *, environment: Mapping[str, str] | None = None) -> None:
        """Start `command`, whose words may be paths, as `name`; its output is added to the log."""
        words = [*self._prefix, *map(str, command)]
        program = shutil.which(words[0])
        if program is None:
            raise RuntimeError(f"{name}: there is no program {words[0]}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        redirections = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.log(name)), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        given = {**os.environ, **(environment or {})}
        pid = os.posix_spawn(program, words, given, file_actions=redirections, setsid=True)
        self._write(name, identity_of(pid))

    def log(self, name: str) -> Path:
        """Where the output of a process is."""
        return self.folder / f"{name}.log"

    def tail(self, name: str) -> str:
        """The end of its log, for an error's message."""
        path = self.log(name)
        return path.read_bytes()[-TAIL_BYTES:].decode(errors="replace") if path.exists() else "there is no log"

    def names(self) -> list[str]:
        """All that were started and not stopped, the last one first."""
        records = (self.folder / "processes").glob("*.json")
        return [record.stem for record in sorted(records, key=lambda path: path.stat().st_mtime_ns, reverse=True)]

    def identity(self, name: str) -> Identity:
        """Of a process that was started."""
        return Identity(**json.loads(self._record(name).read_text()))

    def alive(self, name: str) -> bool:
        """It was started and runs."""
        return self._record(name).exists() and self.identity(name).alive

    def check(self, name: str) -> None:
        """Raise if it has ended."""
        if not self.alive(name):
            raise RuntimeError(f"{name} has ended: {self.tail(name)}")

    def stop(self, name: str, *, number: int = signal.SIGTERM, seconds: float = 10) -> None:
        """Ask it to end, by force once `seconds` have passed."""
        if not self._record(name).exists():
            return
        identity = self.identity(name)
        identity.signal(number)
        deadline = time.monotonic() + seconds
        while identity.alive and time.monotonic() < deadline:
            time.sleep(0.02)
        identity.signal(signal.SIGKILL)
        wait_until(f"{name} ({identity.pid}) has ended", lambda: not identity.alive, seconds=10)
        self._record(name).unlink()

    def kill_all(self) -> None:
        """End all at once, by force: for those whose state is thrown away."""
        for name in self.names():
            self.identity(name).signal(signal.SIGKILL)
        for name in self.names():
            self.stop(name)

    def _record(self, name: str) -> Path:
        return self.folder / "processes" / f"{name}.json"

    def _write(self, name: str, identity: Identity) -> None:
        partial = self._record(name).with_suffix(".partial")
        partial.write_text(json.dumps(asdict(identity)))
        partial.replace(self._record(name))


def _has_threads(pid: int) -> bool:
    """Whether a process whose first thread has ended has others: they keep its ports until they have ended too."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except FileNotFoundError:
        return False


def _state_and_start(pid: int) -> tuple[str, int]:
    """Its state, one letter (Z for a zombie), and its start in ticks since boot; nothing and 0 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return fields[0], int(fields[19])
