"""A job whose inputs and output lie in a real bucket, and its preflight in this process or in one of its own."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest

from semires_trainer.config import parse_job, resolve, training_hash
from semires_trainer.data.synthetic import SyntheticConfig, write_synthetic
from semires_trainer.preflight.run import run_preflight

TRAINER_TESTS = Path(__file__).parents[1]
Document = dict[str, Any]


@dataclass
class Told:
    """What a preflight told."""

    code: int
    outcome: dict[str, Any]

    @property
    def found(self) -> dict[str, Any]:
        """The object `preflight`."""
        return dict(self.outcome["preflight"])

    @property
    def error(self) -> dict[str, Any]:
        """What is wrong."""
        return dict(self.outcome["error"])

    @property
    def message(self) -> str:
        """In one sentence."""
        return str(self.error["message"])


@dataclass
class Scene:
    """A bucket's folder of this test's own, the document of a job, the environment of its preflight pod."""

    client: Any
    uri: str
    folder: Path
    document: Document
    environment: dict[str, str]
    capsys: pytest.CaptureFixture[str] | None = None

    def put(self, name: str, content: bytes, **more: Any) -> str:
        """The URI of a new object, written by another tool than ours."""
        uri = f"{self.uri}/{name}"
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.client.put_object(Bucket=bucket, Key=key, Body=content, **more)
        return uri

    def get(self, name: str) -> bytes:
        """An object's content."""
        bucket, _, key = f"{self.uri}/{name}".removeprefix("s3://").partition("/")
        return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def delete(self, name: str) -> None:
        """Remove an object."""
        bucket, _, key = f"{self.uri}/{name}".removeprefix("s3://").partition("/")
        self.client.delete_object(Bucket=bucket, Key=key)

    def names(self, below: str = "") -> list[str]:
        """Names of all objects."""
        bucket, _, key = self.uri.removeprefix("s3://").partition("/")
        answer = self.client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/{below}")
        return [entry["Key"].removeprefix(f"{key}/") for entry in answer.get("Contents", ())]

    def set(self, path: str, value: Any) -> None:
        """Change the document: set("dataset.images", "s3://...")."""
        *parents, last = path.split(".")
        place = self.document["spec"]
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = value

    @property
    def identity(self) -> str:
        """Hash of what is trained."""
        return training_hash(resolve(parse_job(self.document)))

    def whole_environment(self, **changes: str) -> dict[str, str]:
        """With the document as it is now."""
        text = json.dumps(self.document)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {**self.environment, "SEMIRES_DOCUMENT": text, "SEMIRES_DOCUMENT_SHA256": digest, **changes}

    def run(self, **changes: str) -> Told:
        """The preflight, in this process; what it says on stdout is what the kubelet gets."""
        assert self.capsys is not None
        self.capsys.readouterr()
        code = run_preflight(self.whole_environment(**changes), began=time.monotonic())
        said = self.capsys.readouterr().out
        message = (self.folder / "termination-log").read_bytes()
        assert said == message.decode() + "\n"
        assert len(message) <= 4096
        return Told(code, json.loads(message))

    def start(self, **changes: str) -> subprocess.Popen[str]:
        """What the pod runs."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SEMIRES_"))}
        path = os.pathsep.join(filter(None, sys.path))
        return subprocess.Popen(
            [sys.executable, "-m", "semires_trainer.preflight"],
            env={**inherited, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **self.whole_environment(**changes)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in REFER's format."""
    folder = tmp_path_factory.mktemp("preflight") / "data"
    write_synthetic(folder, SyntheticConfig(images=10, evaluation_images=4, size=64))
    return folder


@pytest.fixture(scope="session")
def client(server: Any) -> Iterator[Any]:
    """boto3 as others use it."""
    made = boto3.client("s3", endpoint_url=server.url, region_name="eu-test-1", **server.keys)
    yield made
    made.close()


@pytest.fixture(scope="session")
def tiny_document(load_module: Callable[[Path], ModuleType], data: Path) -> Document:
    """The job of the core tests."""
    harness = load_module(TRAINER_TESTS / "core" / "harness.py")
    document: Document = harness.document_of(data, Path("unused"))
    del document["spec"]["proposals"]["store"]
    document["spec"]["resources"] = {"gpusPerNode": 2}
    return document


@pytest.fixture(scope="session")
def outputs(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """What stands for the ranks."""
    return load_module(TRAINER_TESTS / "supervise" / "outputs.py")


@pytest.fixture
def environment(server: Any, servers: ModuleType, credentials: Path, tmp_path: Path) -> dict[str, str]:
    """What the operator gives the third attempt."""
    return {
        "SEMIRES_JOB_UID": "job-uid",
        "SEMIRES_ATTEMPT": "3",
        "SEMIRES_POD_UID": "pod-uid",
        "SEMIRES_ENDPOINT_URL": server.url,
        "SEMIRES_ENDPOINT_REGION": servers.REGION,
        "SEMIRES_CREDENTIALS": str(credentials),
        "SEMIRES_CACHE": str(tmp_path / "cache"),
        "SEMIRES_TERMINATION_LOG": str(tmp_path / "termination-log"),
    }


@pytest.fixture
def local_scene(
    client: Any,
    environment: dict[str, str],
    prefix: str,
    tmp_path: Path,
    tiny_document: Document,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Scene:
    """A job that reads and writes paths."""
    monkeypatch.setattr("semires_trainer.storage.client.ATTEMPTS", 1)
    scene = Scene(client, prefix, tmp_path, copy.deepcopy(tiny_document), environment, capsys)
    scene.set("output", str(tmp_path / "out"))
    scene.set("preflight.deadlineSeconds", 60)
    return scene


@pytest.fixture
def scene(local_scene: Scene, data: Path) -> Scene:
    """The same job from and to a bucket."""
    for name in ("refs(unc).p", "instances.json"):
        local_scene.put(f"refer/refcoco/{name}", (data / name).read_bytes())
    for picture in (data / "images").iterdir():
        local_scene.put(f"images/{picture.name}", picture.read_bytes())
    local_scene.put("vocab.txt", (data / "vocab.txt").read_bytes())
    local_scene.set("dataset.annotations", f"{local_scene.uri}/refer")
    local_scene.set("dataset.images", f"{local_scene.uri}/images")
    local_scene.set("model.vocab", f"{local_scene.uri}/vocab.txt")
    local_scene.set("output", f"{local_scene.uri}/out")
    return local_scene


@pytest.fixture(scope="session")
def checkpoint_file() -> bytes:
    """A file as `torch.save` writes it: a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    return buffer.getvalue()


@pytest.fixture
def with_sam(scene: Scene, checkpoint_file: bytes) -> Scene:
    """A job whose masks come from a SAM of its own."""
    weights = scene.put("models/sam.pth", checkpoint_file)
    sam = {"model": "ViTB", "weights": weights, "sha256": hashlib.sha256(checkpoint_file).hexdigest()}
    scene.set("proposals", {"generator": "SAM", "sam": sam})
    return scene
