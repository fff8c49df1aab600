"""A job whose inputs lie in a bucket, and a proxy that counts what is asked for."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import pytest

from semires_trainer.config import Resolved, parse_job, resolve
from semires_trainer.data.records import Annotation, Dataset, ImageRecord, Ref
from semires_trainer.data.refer import write_refer
from semires_trainer.fetch import FetchProgress, Places, fetch_inputs
from semires_trainer.storage import Storage

SPLITS = {1: "train", 2: "train", 3: "train", 4: "train", 5: "train", 6: "train", 7: "val", 8: "val", 9: "testA"}
"""Of images 1 to 9; 10 to 12 lie beside them and belong to nothing."""
NAMES = {key: f"COCO_train2014_{key:012}.jpg" for key in range(1, 13)}
USED = [NAMES[key] for key in range(1, 9)]
"""What a job with all train images and the split val reads."""


def image_bytes(name: str, *, size: int = 3000) -> bytes:
    return random.Random(name).randbytes(size)


def dataset() -> Dataset:
    images = {key: ImageRecord(id=key, file_name=NAMES[key], height=24, width=32) for key in SPLITS}
    outline = [[2.0, 2.0, 12.0, 2.0, 12.0, 10.0, 2.0, 10.0]]
    annotations = {
        key: Annotation(
            id=key, image_id=key, category_id=1, bbox=(2.0, 2.0, 10.0, 8.0), segmentation=outline, iscrowd=False
        )
        for key in SPLITS
    }
    refs = tuple(
        Ref(
            **{"ref_id": key, "annotation_id": key, "image_id": key, "split": split, "category": "box"},
            **{"expressions": ("the box",), "raw": ("The box",)},
        )
        for key, split in SPLITS.items()
    )
    return Dataset(name="RefCOCO", images=images, annotations=annotations, refs=refs)


def zip_of(names: list[str], *, folder: str = "", compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name in names:
            archive.writestr(folder + name, image_bytes(name))
    return buffer.getvalue()


def tar_of(
    names: list[str], *, folder: str = "", mode: str = "w", contents: Mapping[str, bytes] | None = None
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name in names:
            content = (contents or {}).get(name) or image_bytes(name)
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@dataclass
class Bucket:
    """A folder of this test's own in the bucket, written by another tool than ours."""

    client: Any
    uri: str

    def put(self, name: str, content: bytes) -> str:
        """The URI of a new object."""
        uri = f"{self.uri}/{name}"
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.client.put_object(Bucket=bucket, Key=key, Body=content)
        return uri

    def put_images(self, names: list[str] | None = None) -> str:
        """The URI of a prefix of all images."""
        for name in names or NAMES.values():
            self.put(f"images/{name}", image_bytes(name))
        return f"{self.uri}/images"

    def put_annotations(self, folder: Path) -> str:
        """The URI of REFER's data folder, with another data set beside ours."""
        write_refer(dataset(), folder)
        for name in ("refs(unc).p", "instances.json"):
            self.put(f"refer/refcoco/{name}", (folder / name).read_bytes())
            self.put(f"refer/refcoco+/{name}", b"another data set")
        self.put("refer/refcoco/refs(google).p", b"another split")
        return f"{self.uri}/refer"


@pytest.fixture(scope="session")
def client(server: Any) -> Iterator[Any]:
    """boto3 as others use it."""
    made = boto3.client("s3", endpoint_url=server.url, region_name="eu-test-1", **server.keys)
    yield made
    made.close()


@pytest.fixture
def bucket(client: Any, prefix: str) -> Bucket:
    return Bucket(client, prefix)


@pytest.fixture
def annotations(tmp_path: Path) -> str:
    """REFER's files on this node."""
    write_refer(dataset(), tmp_path / "refer" / "refcoco")
    return str(tmp_path / "refer")


@pytest.fixture
def make_job(annotations: str, tmp_path: Path) -> Callable[..., Resolved]:
    """A job whose inputs are local, but for `changes` given by path: make_job(dataset__images="s3://...")."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")

    def make(**changes: Any) -> Resolved:
        spec: dict[str, Any] = {
            "dataset": {
                **{"name": "RefCOCO", "annotations": annotations, "images": "unused"},
                **{"labeled": {"percent": "34"}, "evaluate": ["val"]},
            },
            "proposals": {"generator": "Felzenszwalb"},
            "model": {"backbone": "SwinTiny", "swin": "random", "bert": "random", "vocab": str(tmp_path / "vocab.txt")},
            "training": {"device": "CPU"},
            "output": str(tmp_path / "out"),
        }
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = spec
            for part in parents:
                place = place[part]
            place[last] = value
        document = {"apiVersion": "semires.dev/v1alpha1", "kind": "SemiRESJob", "metadata": {"name": "job"}}
        return resolve(parse_job({**document, "spec": spec}))

    return make


@dataclass
class Watched:
    """Fetches into one cache through a proxy that counts."""

    proxy: Any
    storage: Storage
    cache: Path
    reports: list[FetchProgress]

    def fetch(self, resolved: Resolved, *, should_stop: Callable[[], bool] = lambda: False) -> Places:
        self.proxy.forget()
        self.reports.clear()
        return fetch_inputs(resolved, self.storage, self.cache, report=self.reports.append, should_stop=should_stop)

    def contents(self) -> list[str]:
        """Names of the objects of which content was fetched, by the last `fetch`."""
        requests = [exchange.request for exchange in self.proxy.exchanges() if exchange.complete]
        paths = [urlsplit(unquote(request.path)) for request in requests if request.method == "GET"]
        return sorted(Path(path.path).name for path in paths if "list-type" not in path.query)


@pytest.fixture
def watched(make_proxy: Any, make_storage: Callable[..., Storage], tmp_path: Path) -> Watched:
    proxy = make_proxy()
    storage = make_storage(endpoint_url=proxy.url, patience_seconds=60.0)
    return Watched(proxy=proxy, storage=storage, cache=tmp_path / "cache", reports=[])


def fetched_images(places: Places) -> dict[str, bytes]:
    """Name -> content of the images that lie on this node."""
    folder = Path(places.paths["spec.dataset.images"])
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def originals(names: list[str]) -> dict[str, bytes]:
    return {name: image_bytes(name) for name in names}
