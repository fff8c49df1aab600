"""An output in a real bucket, and what ranks leave in a work folder, made without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.config import SemiRESJob, parse_job
from semires_trainer.orders import Attempt
from semires_trainer.publisher import Publisher
from semires_trainer.storage import Storage, StorageSettings

LoadModule = Callable[[Path], ModuleType]
MakeStorage = Callable[..., Storage]


@pytest.fixture(autouse=True)
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails once is an error at once."""
    monkeypatch.setattr("semires_trainer.storage.client.ATTEMPTS", 1)


@pytest.fixture(scope="session")
def credentials(servers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a mounted Secret."""
    folder: Path = servers.write_credentials(tmp_path_factory.mktemp("secret") / "credentials")
    return folder


@pytest.fixture(scope="session")
def make_storage(server: Any, servers: ModuleType, credentials: Path) -> Iterator[MakeStorage]:
    """Storage at the server, without patience; opening one takes as long as thirty requests."""
    opened = []

    def make(**changes: Any) -> Storage:
        defaults: dict[str, Any] = {
            "endpoint_url": server.url,
            "region": servers.REGION,
            "path_style": True,
            "credentials_folder": credentials,
            "patience_seconds": 0.0,
            "rotation_seconds": 0.0,
        }
        opened.append(Storage(StorageSettings(**{**defaults, **changes})))
        return opened[-1]

    yield make
    for storage in opened:
        storage.close()


@pytest.fixture(scope="session")
def storage(make_storage: MakeStorage) -> Storage:
    return make_storage()


@pytest.fixture(scope="session")
def rivals(make_storage: MakeStorage) -> list[Storage]:
    """Connections of eight attempts of their own."""
    return [make_storage() for _ in range(8)]


@pytest.fixture
def output(prefix: str) -> str:
    """An output of this test's own in the bucket."""
    return prefix


@pytest.fixture
def bucket_folder(server: Any, output: str) -> Path:
    """Where the server keeps that output."""
    folder: Path = server.folder / "buckets" / output.removeprefix("s3://")
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def outputs(load_module: LoadModule) -> ModuleType:
    """What stands for the ranks, and looks at an output without our code."""
    return load_module(Path(__file__).with_name("outputs.py"))


@pytest.fixture
def attempt() -> Callable[..., Attempt]:
    """An attempt in a pod of its own; without a number unless one is given."""
    return lambda pod, number=0: Attempt(job="small", job_uid="job-1", number=number, pod_uid=f"pod-{pod}")


@pytest.fixture
def job() -> Callable[..., SemiRESJob]:
    """The smallest job; its seed tells what is trained."""

    def build(*, output: str = "out", seed: int = 0) -> SemiRESJob:
        spec = {
            "dataset": {
                "name": "RefCOCO",
                "annotations": "data/refer",
                "images": "data/images",
                "labeled": {"percent": "1"},
            },
            "proposals": {"generator": "Felzenszwalb"},
            "training": {"seed": seed},
            "output": output,
        }
        head = {"apiVersion": "semires.dev/v1alpha1", "kind": "SemiRESJob", "metadata": {"name": "small"}}
        return parse_job({**head, "spec": spec})

    return build


@pytest.fixture
def make_publisher(storage: Storage, output: str, work: Path) -> Callable[..., Publisher]:
    """A publisher of the work folder; nobody disputes the output."""

    def make(*, to: str = output, through: Storage = storage, keep_last: int = 2, **more: Any) -> Publisher:
        given = {"outgoing": work / ".run" / "outgoing", "confirm": lambda: None, "keep_last": keep_last, **more}
        return Publisher(through, to, work, **given)

    return make
