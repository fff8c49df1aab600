"""Small parts that several tests of the operator's shell need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture
def run() -> Run[Any]:
    """Run a coroutine; it may take 20 s."""

    def within(coroutine: Coroutine[Any, Any, T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(20):
                return await coroutine

        return asyncio.run(limited())

    return within
