"""One tiny dataset and one finished run for all tests of the core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from semires_trainer.config import parse_job
from semires_trainer.data.synthetic import SyntheticConfig, write_synthetic
from semires_trainer.run import run_here
from semires_trainer.storage import Storage


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Processes that run beside each other take each other's cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def harness(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(Path(__file__).with_name("harness.py"))


@pytest.fixture(scope="session")
def states(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(Path(__file__).with_name("states.py"))


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
    run_here(parse_job(harness.document_of(data, output)))
    return output


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage() as opened:
        yield opened
