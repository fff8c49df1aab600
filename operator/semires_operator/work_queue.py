"""Keys to be worked on: each once at a time, failures later and later, a bounded number at once."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 300.0
"""Of the back-off after a failure; it doubles."""
JITTER = 0.2
"""Share of a wait by which it varies, so that what failed together does not come back together."""
LONGEST_WORK_SECONDS = 120.0


class Again(Exception):
    """The work could not be done: it is tried again with back-off, not before `after` seconds."""

    def __init__(self, message: str, *, after: float = 0) -> None:
        super().__init__(message)
        self.after = after


class Fatal(Exception):
    """Nothing more may be done by this process: it ends the queue."""


class WorkQueue(Generic[Key]):
    """Keys with the time from which they are due. Not for several threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, spread: Callable[[], float] = random.random):
        """clock: seconds that never go back; spread: numbers from 0 to 1 for the jitter."""
        self._clock = clock
        self._spread = spread
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._busy: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Keys that are due or will be."""
        return len(self._due)

    def depth(self) -> int:
        """Keys that are due and wait for a worker."""
        now = self._clock()
        return sum(due <= now for due in self._due.values())

    def add(self, key: Key, *, after: float = 0) -> None:
        """Work on the key in `after` seconds; the earliest of several wishes wins."""
        due = self._clock() + after
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._order), key))
            self._changed.set()

    def forget(self, key: Key) -> None:
        """The key is no more: neither its due time nor its failures are kept."""
        self._due.pop(key, None)
        self._failures.pop(key, None)

    async def run(self, work: Callable[[Key], Awaitable[float | None]], *, workers: int) -> None:
        """Work until cancelled. `work` returns the seconds after which it wants the key again, or None.

        Its Again and any other exception make the key come back with back-off; Fatal ends the run.
        """
        free = asyncio.Semaphore(workers)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await free.acquire()
                    key = await self._next()
                    self._busy.add(key)
                    group.create_task(self._work_on(key, work, free))
        except BaseExceptionGroup as failures:
            fatal = failures.subgroup(Fatal)
            raise (fatal or failures).exceptions[0] from failures

    async def _next(self) -> Key:
        """Wait for the key that has been due longest and is not worked on; take it."""
        while True:
            self._changed.clear()
            wait: float | None = None
            postponed = []
            taken: Key | None = None
            while self._heap:
                due, _, key = self._heap[0]
                if self._due.get(key) != due:  # an earlier wish, or none any more
                    heapq.heappop(self._heap)
                elif due > self._clock():
                    wait = due - self._clock()
                    break
                elif key in self._busy:
                    postponed.append(heapq.heappop(self._heap))
                else:
                    heapq.heappop(self._heap)
                    taken = key
                    break
            for entry in postponed:  # looked at again when its work has ended
                heapq.heappush(self._heap, entry)
            if taken is not None:
                del self._due[taken]
                return taken
            await self._wait(wait)

    async def _wait(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _work_on(self, key: Key, work: Callable[[Key], Awaitable[float | None]], free: asyncio.Semaphore) -> None:
        try:
            async with asyncio.timeout(LONGEST_WORK_SECONDS):
                after = await work(key)
        except Fatal:
            raise
        except Again as again:
            logger.info("%s", again)
            self._come_back(key, at_least=again.after)
        except Exception:
            logger.exception("A look at the job failed.")
            self._come_back(key)
        else:
            self._failures.pop(key, None)
            if after is not None:
                self.add(key, after=after)
        finally:
            self._busy.discard(key)
            self._changed.set()
            free.release()

    def _come_back(self, key: Key, *, at_least: float = 0) -> None:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        wait = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(failures, 16))
        self.add(key, after=max(at_least, wait) * (1 + JITTER * self._spread()))
