"""A checkpoint asked for from outside: how often one may be asked for, and the file by which the ranks hear of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semires_trainer.progress_file import replace_text

MINUTE = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What becomes of one request."""

    state: Literal["Passed", "Pending", "Deferred"]
    """Passed to the ranks now; answered by one that was passed before and is not done; or passed later."""
    seconds: float
    """Until a deferred request is passed on, else 0."""


class CheckpointRequests:
    """At most one request is under way and at most one is passed on per interval; the others are answered by it.

    Safe to use from several threads. The clock is monotonic, in seconds.
    """

    def __init__(self, *, interval_seconds: float = MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._passed_at: float | None = None
        self._under_way = False
        self._waiting = False

    def ask(self) -> Answer:
        """Ask for a checkpoint. "Passed" is true once: whoever gets it passes the request on."""
        with self._lock:
            if self._under_way:
                return Answer(state="Pending", seconds=0.0)
            self._waiting = True
            if self._pass_on():
                return Answer(state="Passed", seconds=0.0)
            return Answer(state="Deferred", seconds=self._seconds_left())

    def take_due(self) -> bool:
        """Whether a deferred request is to be passed on now; true once. To be asked every second or so."""
        with self._lock:
            return self._pass_on()

    def not_passed(self) -> None:
        """What was to be passed on could not be: it is due again after an interval."""
        with self._lock:
            self._waiting, self._under_way = True, False

    def published(self) -> None:
        """A checkpoint was published: it answers the request under way."""
        with self._lock:
            self._under_way = False

    def _pass_on(self) -> bool:
        due = self._waiting and not self._under_way and self._seconds_left() == 0
        if due:
            self._waiting, self._under_way, self._passed_at = False, True, self._clock()
        return due

    def _seconds_left(self) -> float:
        if self._passed_at is None:
            return 0.0
        return max(0.0, self._passed_at + self._interval - self._clock())


def pass_request(path: Path, number: int) -> None:
    """Ask the ranks for a checkpoint: the `number`-th of this attempt, so that people can read how many there were."""
    replace_text(path, f"{number}\n")


def asked_for_at(path: Path) -> float | None:
    """When the request that waits was passed on, by the clock of its disk; None if none waits."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def withdraw_request(path: Path) -> None:
    """Forget a request that was answered, or that was meant for ranks that are gone."""
    path.unlink(missing_ok=True)


class CheckpointRequest:
    """A rank's view of the request: one stat per look. A request that waits already is a request."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    def take(self) -> bool:
        """Whether there is a request that was not taken yet."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        # Each request is a new file, so the pair differs even within one tick of the file system's clock.
        mark = (found.st_ino, found.st_mtime_ns)
        if mark == self._seen:
            return False
        self._seen = mark
        return True
