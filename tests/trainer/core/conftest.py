"""One tiny dataset and one finished run for all tests of the core."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from semires_trainer.config import parse_job
from semires_trainer.data.synthetic import SyntheticConfig, write_synthetic
from semires_trainer.launch import run


def load_module(name: str) -> ModuleType:
    """A helper beside this file: with --import-mode=importlib no test folder is on the path."""
    spec = importlib.util.spec_from_file_location(f"core_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Processes that run beside each other take each other's cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    return load_module("harness")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset, and the proposals once they are made: shared, not to be changed."""
    folder = tmp_path_factory.mktemp("core") / "data"
    write_synthetic(folder, SyntheticConfig(images=10, evaluation_images=4, size=64))
    return folder


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory, harness: ModuleType) -> Path:
    """The output of an uninterrupted run of all stages: shared, not to be changed."""
    output = tmp_path_factory.mktemp("finished") / "out"
    run(parse_job(harness.document_of(data, output)))
    return output


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"
