"""The manifest's modules stay light, and the lock files cover what pyproject.toml asks for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from semires_trainer.manifest import load_manifest

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HEAVY = ["torch", "torchvision", "numpy", "timm", "transformers", "boto3", "kubernetes", "kopf", "PIL"]


@pytest.mark.parametrize("module", ["semires_trainer.config", "semires_trainer.manifest"])
def test_the_manifest_can_be_read_without_torch_and_kubernetes(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"

    environment = {**os.environ, "PYTHONPATH": str(ROOT / "trainer")}

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)

    assert result.stdout.strip() == ""


def locked(name: str) -> dict[str, list[str]]:
    """Package -> versions pinned in a requirements file."""
    pins: dict[str, list[str]] = {}
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    for package, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ \\]+)", text, re.MULTILINE):
        pins.setdefault(package.lower(), []).append(version)
    return pins


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        pytest.param("trainer", ["trainer"], id="trainer"),
        pytest.param("operator", ["operator"], id="operator"),
        pytest.param("dev", ["trainer", "dev"], id="dev"),
    ],
)
def test_a_lock_file_pins_every_requirement_within_its_range(name: str, extras: list[str]) -> None:
    wanted = list(PROJECT["dependencies"])
    for extra in extras:
        wanted += PROJECT["optional-dependencies"][extra]
    pins = locked(name)

    for requirement in map(Requirement, wanted):
        versions = pins.get(requirement.name.lower(), [])
        assert versions, f"{requirement.name} is not locked, run make lock"
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: {versions}"


def test_the_extras_are_locked_to_the_same_versions() -> None:
    operator, everything = locked("operator"), locked("dev")

    assert [name for name in operator.keys() & everything.keys() if operator[name] != everything[name]] == []


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_a_lock_file_has_hashes_and_names_no_host_or_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert text.count("==") <= text.count("--hash=sha256:")
    assert not re.search(r"://|--index|--find-links|/home/|/tmp/", text)


@pytest.mark.parametrize("requirement", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["trainer"]])
def test_every_requirement_has_a_floor(requirement: str) -> None:
    assert any(part.operator == ">=" for part in Requirement(requirement).specifier)


def test_every_example_loads() -> None:
    jobs = [load_manifest(path) for path in sorted((ROOT / "examples").glob("*.yaml"))]

    assert all(job.spec.output for job in jobs)
