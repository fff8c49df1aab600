"""docs/failures.md and docs/storage.md name every reason with which a run can end, and its exit code."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import semires_trainer
from semires_trainer.cli import main
from semires_trainer.errors import SemiresError
from semires_trainer.signals import EXIT_CODES

DOCS = Path(__file__).parents[2] / "docs"


def errors_of(base: type[SemiresError]) -> Iterator[type[SemiresError]]:
    yield base
    for error in base.__subclasses__():
        yield from errors_of(error)


def all_errors() -> list[type[SemiresError]]:
    """Those of every module of the trainer."""
    for module in pkgutil.walk_packages(semires_trainer.__path__, "semires_trainer."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return [error for error in errors_of(SemiresError) if error.__module__.startswith("semires_trainer")]


def documented() -> set[tuple[str, int]]:
    text = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("failures.md", "storage.md"))
    return {(reason, int(code)) for reason, code in re.findall(r"^\| (\w+) \| (\d+) \|", text, re.MULTILINE)}


def overviews() -> dict[str, str]:
    """Where -> the text that lists the exit codes in short."""
    concepts = (DOCS / "concepts.md").read_text(encoding="utf-8")
    return {"semires --help": main.epilog or "", "concepts.md": concepts.partition("## Stopping")[2]}


@pytest.mark.parametrize("place", overviews())
def test_an_overview_leaves_no_exit_code_out(place: str) -> None:
    over_time = 124  # of commands that wait for a cluster
    codes = {error.exit_code for error in all_errors()} | set(EXIT_CODES.values()) | {over_time}

    assert codes - {int(number) for number in re.findall(r"\d+", overviews()[place])} == set()


def test_every_reason_is_documented_with_its_exit_code() -> None:
    reasons = {(error.reason, error.exit_code) for error in all_errors()}

    assert reasons - documented() == set()
    assert len(reasons) > 20


def test_no_reason_is_documented_that_does_not_exist() -> None:
    assert documented() - {(error.reason, error.exit_code) for error in all_errors()} == set()


def test_a_reason_has_one_exit_code() -> None:
    reasons = {error.reason: error.exit_code for error in all_errors()}

    assert {(error.reason, error.exit_code) for error in all_errors()} == set(reasons.items())


@pytest.mark.parametrize("code", sorted({0, 126, 127, 137, *EXIT_CODES.values()}))
def test_codes_without_a_reason_are_explained(code: int) -> None:
    text = (DOCS / "failures.md").read_text(encoding="utf-8")

    assert re.search(rf"^\| ([\d, ]*\b)?{code}\b[\d, ]* \|", text, re.MULTILINE)


def test_every_exit_code_is_explained() -> None:
    text = (DOCS / "failures.md").read_text(encoding="utf-8")
    explained = {
        int(code) for codes in re.findall(r"^\| ([\d, ]+) \|", text, re.MULTILINE) for code in codes.split(", ")
    }

    assert {error.exit_code for error in all_errors()} - explained == set()
