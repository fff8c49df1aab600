"""Waiting for what is not there yet, with an error that says what was seen instead."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_until(
    what: str,
    look: Callable[[], Found | None],
    *,
    seconds: float,
    every: float = 0.05,
    seen: Callable[[], str] = lambda: "",
) -> Found:
    """What `look` finds, once that is neither None nor False nor empty; TimeoutError after `seconds`, with `seen`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}. {seen()}".strip())
        time.sleep(every)
