"""For tests of every folder: the command line, and helpers that lie beside them."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from semires_trainer.cli import main

REAL_NODE = {"real_cluster", "world"}
"""Fixtures that start the real node."""

Semires = Callable[..., Result]
LoadModule = Callable[[Path], ModuleType]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the real node, so that `make test` and `make e2e` tell each other's tests apart."""
    for item in items:
        if REAL_NODE & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def semires() -> Semires:
    """Run the program with arguments in a folder: no wrapping and no colour, whatever terminal the tests run in."""

    def run(*arguments: object, folder: Path | str = ".") -> Result:
        runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "SEMIRES_DEBUG": None})
        with contextlib.chdir(folder):
            return runner.invoke(main, [str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="session")
def load_module() -> LoadModule:
    """Load a helper of the tests."""
    return _load_module


def _load_module(path: Path) -> ModuleType:
    """A helper of the tests as a module: with --import-mode=importlib no test folder is on the path."""
    spec = importlib.util.spec_from_file_location(f"tests_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
