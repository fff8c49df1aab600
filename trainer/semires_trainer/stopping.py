"""Signals to a supervisor: the first asks its ranks to stop, the second ends everything."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from semires_trainer.ranks import Ranks
from semires_trainer.signals import EARLY, EXIT_CODES


class Interrupted(BaseException):
    """A signal where nothing needs to be saved. No Exception: botocore takes each for a broken connection."""

    saved = "Nothing was being trained yet; start again to go on."

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Stop:
    """SIGINT and SIGTERM: the first asks the ranks to stop, the second ends everything now."""

    def __init__(self) -> None:
        self.number = 0
        self.is_aborted = False
        self.ranks: Ranks | None = None
        self._interrupts = False

    @property
    def exit_code(self) -> int:
        """128 + the signal's number."""
        return EXIT_CODES[signal.Signals(self.number)]

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Called by Python between two instructions of the main thread."""
        if self.number:
            self.is_aborted = True
            return
        self.number = number
        if self.ranks is not None:
            self.ranks.ask_to_stop(number)
        elif self._interrupts:
            raise Interrupted(self.exit_code)

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Nothing inside needs to be saved: a signal leaves it at once, by Interrupted."""
        self._interrupts = True
        try:
            if self.number:
                raise Interrupted(self.exit_code)
            yield
        finally:
            self._interrupts = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals; the handlers before are put back."""
        previous = {number: signal.signal(number, self.on_signal) for number in EXIT_CODES}
        for number in EARLY:
            self.on_signal(number, None)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
