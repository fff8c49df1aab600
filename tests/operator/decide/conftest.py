"""A cluster in memory for the tests of what is decided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def worlds(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """The module of the cluster."""
    return load_module(Path(__file__).with_name("world.py"))


@pytest.fixture
def make_world(worlds: ModuleType) -> Callable[..., Any]:
    """A cluster with one new job; keyword arguments change its spec."""

    def make(**spec: Any) -> Any:
        world = worlds.World()
        world.spec = {**world.spec, **spec}
        return world

    return make


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """A cluster with one new job."""
    return make_world()
