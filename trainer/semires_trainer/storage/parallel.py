"""Parts of a transfer in threads, their results in order, and one failure for all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Cancelled(Exception):
    """Nobody needs this transfer: another part of it failed for good, or `should_stop` said so."""


def in_order(work: Callable[[T, threading.Event], R], items: Sequence[T], *, threads: int) -> Generator[R, None, None]:
    """Yield `work(item, stop)` for all items in order, while later ones are under way.

    The first failure sets `stop`, is raised as soon as the others have ended, and nothing goes on after it.
    """
    stop = threading.Event()

    def guarded(item: T) -> R:
        if stop.is_set():
            raise Cancelled
        try:
            return work(item, stop)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(max_workers=max(1, min(threads, len(items)))) as pool:
        futures = [pool.submit(guarded, item) for item in items]
        try:
            for future in futures:
                yield future.result()
        except Cancelled:
            raise _first_failure(futures) from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _first_failure(futures: Sequence[Future[R]]) -> BaseException:
    """The failure that cancelled the others."""
    failures = [future.exception() for future in futures if not future.cancelled()]
    return next((error for error in failures if error is not None and not isinstance(error, Cancelled)), Cancelled())


def split(size: int, part_bytes: int) -> list[range]:
    """Byte ranges of at most `part_bytes` that cover `size` bytes in order."""
    return [range(start, min(size, start + part_bytes)) for start in range(0, size, part_bytes)]
