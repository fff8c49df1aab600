"""The tiny job of the core tests, long enough to be interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.data.synthetic import SyntheticConfig, write_synthetic

CORE = Path(__file__).parents[1] / "core"


@pytest.fixture(scope="session")
def programs(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(Path(__file__).with_name("program.py"))


@pytest.fixture(scope="session")
def harness(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(CORE / "harness.py")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, not to be changed; each run keeps its proposals in its own output."""
    folder = tmp_path_factory.mktemp("survive") / "data"
    write_synthetic(folder, SyntheticConfig(images=10, evaluation_images=4, size=64))
    return folder


@pytest.fixture
def document_of(data: Path, harness: ModuleType) -> Callable[..., dict[str, Any]]:
    """A job that writes to a folder: four epochs of three steps in each stage, a checkpoint every second step."""

    def make(output: Path | str, **training: Any) -> dict[str, Any]:
        settings = {"burnInEpochs": 4, "epochs": 4, "checkpoint": {"intervalSteps": 2}, **training}
        document = harness.document_of(data, Path("unused"), **settings)
        document["spec"]["output"] = str(output)
        del document["spec"]["proposals"]["store"]
        return document

    return make


class Bucket:
    """A bucket of a real S3 server, as a test's own folder of it."""

    def __init__(self, server: Any, servers: ModuleType, folder: str) -> None:
        self._root = server.folder / "buckets" / "bucket" / folder
        self._folder = folder
        self.url: str = server.url
        self.options = ("--endpoint", f"default={server.url}")
        self.environment = {
            "AWS_ACCESS_KEY_ID": servers.ACCESS,
            "AWS_SECRET_ACCESS_KEY": servers.SECRET,
            "AWS_REGION": servers.REGION,
        }
        self.free_port: Callable[[], int] = servers.free_port

    def uri(self, name: str) -> str:
        """s3://… of something in this folder."""
        return f"s3://bucket/{self._folder}/{name}"

    def path(self, name: str) -> Path:
        """The server's file."""
        return Path(self._root / name)

    def read(self, name: str) -> bytes:
        """The content of an object."""
        return self.path(name).read_bytes()


@pytest.fixture
def s3(server: Any, servers: ModuleType, tmp_path: Path) -> Bucket:
    return Bucket(server, servers, f"{tmp_path.parent.name}-{tmp_path.name}")
