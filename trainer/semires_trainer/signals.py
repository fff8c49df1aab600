"""Ask a run to stop: the first SIGINT or SIGTERM sets a flag that the loop reads between steps, the second ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

EARLY: list[int] = []
"""Signals that came before anybody could act on them."""

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def remember_signals() -> None:
    """Keep SIGINT and SIGTERM in `EARLY` until somebody else listens."""
    for number in EXIT_CODES:
        signal.signal(number, lambda number, _frame: EARLY.append(number))


class StopRequested(Exception):
    """The run stopped on request; `saved` is a sentence about what was saved."""

    def __init__(self, exit_code: int, saved: str, *, saved_step: int | None = None) -> None:
        super().__init__(f"Stopped on request. {saved}")
        self.exit_code = exit_code
        self.saved = saved
        self.saved_step = saved_step
        """Optimizer steps of the whole run in the last checkpoint; None if there is none."""


@dataclass
class StopFlag:
    """Whether and how this process was asked to stop."""

    signal_number: int = 0

    @property
    def is_set(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signal_number > 0

    @property
    def exit_code(self) -> int:
        """128 + the signal's number; 143 if another rank got the signal."""
        return EXIT_CODES.get(signal.Signals(self.signal_number), 143) if self.signal_number else 143


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Yield a flag that SIGINT and SIGTERM set. A second signal acts as if nobody listened: it ends the process."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    previous = {number: signal.getsignal(number) for number in EXIT_CODES}

    def on_signal(number: int, _frame: FrameType | None) -> None:
        flag.signal_number = number
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in EXIT_CODES:
        signal.signal(number, on_signal)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
