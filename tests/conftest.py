"""The command line for tests of every folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from semires_trainer.cli import main

Semires = Callable[..., Result]


@pytest.fixture(scope="session")
def semires() -> Semires:
    """Run the program with arguments in a folder: no wrapping and no colour, whatever terminal the tests run in."""

    def run(*arguments: object, folder: Path | str = ".") -> Result:
        runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "SEMIRES_DEBUG": None})
        with contextlib.chdir(folder):
            return runner.invoke(main, [str(argument) for argument in arguments])

    return run
