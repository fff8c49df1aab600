"""Jobs share proposals through a bucket: only shards travel, each once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semires_trainer.fetch import Exchange, pull_store, push_store
from semires_trainer.proposals.store import ProposalStore, StoreKey
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import ChecksumMismatch
from semires_trainer.storage.parallel import Cancelled

KEY = StoreKey(generator="Felzenszwalb", parameters={"sigma": 0.8})
OTHER = StoreKey(generator="Felzenszwalb", parameters={"sigma": 0.9})


def add(root: Path, *images: int, key: StoreKey = KEY) -> None:
    """A shard with records of images without masks."""
    writer = ProposalStore(root, key).writer()
    for image in images:
        writer.add(f"{image:064x}", [], height=4, width=4)
    writer.flush()


def images_in(root: Path, key: StoreKey = KEY) -> set[int]:
    store = ProposalStore(root, key)
    return {image for image in range(10) if store.contains(f"{image:064x}")}


def test_two_jobs_complete_each_other(storage: Storage, prefix: str, tmp_path: Path) -> None:
    first, second, uri = tmp_path / "first", tmp_path / "second", f"{prefix}/proposals"
    add(first, 1, 2)
    sent = push_store(KEY, storage, first, uri)
    got = pull_store(KEY, storage, uri, second)
    add(second, 3)
    push_store(KEY, storage, second, uri)
    add(first, 4)
    push_store(KEY, storage, first, uri)
    for root in (first, second):
        pull_store(KEY, storage, uri, root)

    assert sent == got
    assert sent.files == 1
    assert images_in(first) == images_in(second) == {1, 2, 3, 4}
    assert (second / KEY.folder_name / "generator.json").is_file()


def test_nothing_travels_twice(
    make_storage: Callable[..., Storage], make_proxy: Any, prefix: str, tmp_path: Path
) -> None:
    proxy = make_proxy()
    storage = make_storage(endpoint_url=proxy.url)
    add(tmp_path / "here", 1)
    push_store(KEY, storage, tmp_path / "here", prefix)
    proxy.forget()

    moved = [
        push_store(KEY, storage, tmp_path / "here", prefix),
        pull_store(KEY, storage, prefix, tmp_path / "here"),
    ]

    assert moved == [Exchange(files=0, bytes=0)] * 2
    assert [exchange.request.method for exchange in proxy.exchanges()] == ["GET", "GET"]  # two listings


def test_the_generator_is_told_before_the_first_shard(
    make_storage: Callable[..., Storage], make_proxy: Any, prefix: str, tmp_path: Path
) -> None:
    proxy = make_proxy()
    add(tmp_path, 1)
    push_store(KEY, make_storage(endpoint_url=proxy.url), tmp_path, prefix)

    written = [exchange.request.path for exchange in proxy.exchanges() if exchange.request.method == "PUT"]
    assert [path.rpartition(".")[2] for path in written] == ["json", "safetensors"]


def test_shards_of_other_parameters_stay_where_they_are(storage: Storage, prefix: str, tmp_path: Path) -> None:
    add(tmp_path / "here", 1)
    add(tmp_path / "here", 2, key=OTHER)
    for key in (KEY, OTHER):
        push_store(key, storage, tmp_path / "here", prefix)

    pull_store(KEY, storage, prefix, tmp_path / "there")

    assert [path.name for path in (tmp_path / "there").iterdir()] == [KEY.folder_name]


def test_a_store_that_is_not_there_is_empty(storage: Storage, prefix: str, tmp_path: Path) -> None:
    assert pull_store(KEY, storage, f"{prefix}/absent", tmp_path / "here") == Exchange(files=0, bytes=0)
    assert push_store(KEY, storage, tmp_path / "here", f"{prefix}/absent") == Exchange(files=0, bytes=0)
    assert not (tmp_path / "here").exists()


def test_a_shard_that_is_not_what_its_name_says_is_refused(storage: Storage, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"damaged")
    storage.upload(tmp_path / "damaged", f"{prefix}/{KEY.folder_name}/{'a' * 64}.safetensors")

    with pytest.raises(ChecksumMismatch, match=r"^spec\.proposals\.store: s3://.* is not the right content"):
        pull_store(KEY, storage, prefix, tmp_path / "here")

    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_exchange_ends_when_it_is_asked_to(storage: Storage, prefix: str, tmp_path: Path) -> None:
    add(tmp_path, 1)

    with pytest.raises(Cancelled):
        push_store(KEY, storage, tmp_path, prefix, should_stop=lambda: True)


def test_the_key_of_sams_masks_needs_no_torch() -> None:
    program = """
import sys
from semires_trainer.config import parse_job, resolve
from semires_trainer.proposals.build import build_key
import semires_trainer.fetch
spec = {"dataset": {"name": "RefCOCO", "annotations": "a", "images": "b", "labeled": {"percent": "1"}},
        "proposals": {"sam": {"weights": "w.pth"}}, "output": "out"}
job = {"apiVersion": "semires.dev/v1alpha1", "kind": "SemiRESJob", "metadata": {"name": "x"}, "spec": spec}
print(build_key(resolve(parse_job(job)).proposals).weights_sha256, "torch" in sys.modules)
"""
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)

    assert answer.stdout.split() == ["a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", "False"]
