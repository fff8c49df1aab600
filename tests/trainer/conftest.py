"""A real S3 server for the tests of every folder, and a proxy in front of it that fails on request."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.storage import Storage, StorageSettings

TESTBED = Path(__file__).parents[1] / "testbed"


@pytest.fixture(scope="session")
def faults(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """The module of the proxy."""
    return load_module(TESTBED / "fault_proxy.py")


@pytest.fixture(scope="session")
def servers(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """The module of the server."""
    return load_module(TESTBED / "s3_server.py")


@pytest.fixture(scope="session")
def go_tools(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """The module that builds programs."""
    return load_module(TESTBED / "go_tools.py")


@pytest.fixture(scope="session")
def gateway(go_tools: ModuleType) -> Path:
    """The server's program."""
    return go_tools.build("versitygw", "github.com/versity/versitygw/cmd/versitygw")


@pytest.fixture(scope="session")
def server(gateway: Path, servers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running = servers.S3Server(gateway, tmp_path_factory.mktemp("s3"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def certificate(go_tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key for 127.0.0.1, its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    maker = go_tools.build_certificate_maker()
    subprocess.run([str(maker), "--host", "127.0.0.1", "--ca"], cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def credentials(servers: ModuleType, tmp_path: Path) -> Path:
    """The folder of a mounted Secret."""
    return servers.write_credentials(tmp_path / "credentials")


@pytest.fixture
def make_proxy(server: Any, faults: ModuleType) -> Iterator[Callable[..., Any]]:
    running = []

    def make(*decide: Any) -> Any:
        running.append(faults.FaultProxy(server.port, *decide))
        return running[-1]

    yield make
    for proxy in running:
        proxy.close()


@pytest.fixture
def settings(server: Any, servers: ModuleType, credentials: Path) -> Callable[..., StorageSettings]:
    """Settings for the server, some changed; small parts, and not much patience."""

    def make(**changes: Any) -> StorageSettings:
        defaults: dict[str, Any] = {
            "endpoint_url": server.url,
            "region": servers.REGION,
            "path_style": True,
            "credentials_folder": credentials,
            "download_part_bytes": 2**20,
            "upload_part_bytes": 5 * 2**20,
            "read_timeout_seconds": 30.0,
            "patience_seconds": 0.0,
            "rotation_seconds": 0.0,
        }
        return StorageSettings(**{**defaults, **changes})

    return make


@pytest.fixture
def make_storage(settings: Callable[..., StorageSettings]) -> Iterator[Callable[..., Storage]]:
    opened = []

    def make(**changes: Any) -> Storage:
        opened.append(Storage(settings(**changes)))
        return opened[-1]

    yield make
    for storage in opened:
        storage.close()


@pytest.fixture
def storage(make_storage: Callable[..., Storage]) -> Storage:
    return make_storage()


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """A folder of this test's own in the bucket."""
    return f"s3://bucket/{tmp_path.parent.name}/{tmp_path.name}"


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[..., Path]:
    """A file of random content."""

    def make(size: int, *, name: str = "weights.bin", seed: int = 0) -> Path:
        path = tmp_path / "source" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(random.Random(seed).randbytes(size))
        return path

    return make
