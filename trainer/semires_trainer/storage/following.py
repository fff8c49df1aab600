"""Hashing that follows a download: in order, as far as bytes have arrived, while later ones are under way."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Container, Sequence

from semires_trainer.storage.digest import CHUNK_BYTES, hash_range


class Arrivals:
    """How far each part has come."""

    def __init__(self, parts: Sequence[range], done: Container[int]) -> None:
        self.parts = parts
        self._reached = [part.stop if number in done else part.start for number, part in enumerate(parts)]
        self._changed = threading.Condition()
        self._stopped = False

    def advance(self, number: int, position: int) -> None:
        """Part `number` is in the file up to `position`."""
        with self._changed:
            self._reached[number] = position
            self._changed.notify_all()

    def stop(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def beyond(self, number: int, position: int) -> int:
        """Where part `number` ends by now, once that is beyond `position`; `position` itself if nothing more comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._reached[number] > position or self._stopped)
            return self._reached[number]


def hash_arrivals(arrivals: Arrivals, descriptor: int) -> str:
    """sha256 of all parts in order; meaningless if they were stopped before the end."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES))
    for number, part in enumerate(arrivals.parts):
        position = part.start
        while position < part.stop:
            reached = arrivals.beyond(number, position)
            if reached == position:
                return ""
            hash_range(digest, descriptor, range(position, reached), buffer)
            position = reached
    return digest.hexdigest()
