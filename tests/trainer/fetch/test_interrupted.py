"""A fetch that is killed goes on where it stopped; processes share one; a server that fails only makes it slower."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.config import Resolved
from semires_trainer.fetch import Places, fetch_inputs
from semires_trainer.fetch.cache import parse_journal
from semires_trainer.fetch.tar import PART_BYTES
from semires_trainer.signals import StopRequested
from semires_trainer.storage import Storage, StorageSettings

from .conftest import NAMES, USED, Bucket, Watched, fetched_images, image_bytes, originals, tar_of, zip_of

Jobs = Callable[..., Resolved]
Settings = Callable[..., StorageSettings]
EVERYTHING = list(NAMES.values())
PATIENCE_SECONDS = 60

CHILD = """
import json, pathlib, pickle, sys
import semires_trainer.fetch as fetch
from semires_trainer.fetch import cache, images, zip
from semires_trainer.storage import Storage, StorageSettings
assert "torch" not in sys.modules
cache.FILES_PER_COMMIT, zip.SPAN_BYTES = 1, 1
settings = json.loads(sys.argv[1])
settings["credentials_folder"] = pathlib.Path(settings["credentials_folder"])
resolved = pickle.loads(pathlib.Path(sys.argv[2]).read_bytes())
storage = Storage(StorageSettings(**settings))
places = fetch.fetch_inputs(resolved, storage, pathlib.Path(sys.argv[3]), should_stop=lambda: False)
assert "torch" not in sys.modules
print(json.dumps(places.as_json()))
"""


@contextlib.contextmanager
def started(settings: StorageSettings, resolved: Resolved, cache: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that fetches; killed at the end."""
    job = cache.parent / f"{time.monotonic_ns()}.job"
    job.write_bytes(pickle.dumps(resolved))
    command = [sys.executable, "-c", CHILD, json.dumps(asdict(settings), default=str), str(job), str(cache)]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the fetch did not get that far"
        time.sleep(0.01)


def is_content(request: Any) -> bool:
    """A question for what is in an object."""
    return request.method == "GET" and "list-type" not in request.path and request.range != "bytes=0-0"


def journaled(cache: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in cache.glob("*/.*.journal"))


@pytest.mark.parametrize(
    ("make", "before"),
    [
        pytest.param(lambda bucket: bucket.put_images(), 0, id="prefix"),
        pytest.param(lambda bucket: bucket.put("x.zip", zip_of(EVERYTHING, folder="train2014/")), 1, id="zip"),
    ],
)
def test_a_killed_fetch_of_images_goes_on_with_those_that_are_missing(
    make: Callable[[Bucket], str],
    before: int,
    bucket: Bucket,
    watched: Watched,
    make_job: Jobs,
    settings: Settings,
    faults: ModuleType,
) -> None:
    resolved = make_job(dataset__images=make(bucket))
    watched.proxy.decide = gate = faults.Gate(before + 3, is_content)
    with started(settings(endpoint_url=watched.proxy.url), resolved, watched.cache):
        wait_for(lambda: journaled(watched.cache) == 3)
    gate.open()

    places = watched.fetch(resolved)

    assert (places.found_files, places.fetched_files) == (3, 5)
    assert fetched_images(places) == originals(USED)
    assert not list(watched.cache.rglob("*.tmp"))


def test_a_killed_fetch_of_a_tar_is_completed(
    bucket: Bucket, watched: Watched, make_job: Jobs, settings: Settings, faults: ModuleType
) -> None:
    between = {"between.bin": bytes(2 * PART_BYTES)}  # more than one part
    archive = tar_of([*USED[:4], "between.bin", *USED[4:]], contents=between)
    resolved = make_job(dataset__images=bucket.put("x.tar", archive))
    watched.proxy.decide = gate = faults.Gate(2, is_content)
    with started(settings(endpoint_url=watched.proxy.url), resolved, watched.cache):
        wait_for(lambda: journaled(watched.cache) == 4)
    gate.open()

    places = watched.fetch(resolved)

    assert (places.found_files, places.fetched_files) == (4, 4)
    assert fetched_images(places) == originals(USED)


@pytest.mark.long
def test_killed_at_any_instant_what_the_journal_lists_is_right(
    bucket: Bucket, watched: Watched, make_job: Jobs, settings: Settings, tmp_path: Path
) -> None:
    """24 kills within the second and a half that a fetch of three kinds of input takes."""
    for name in ("model.json", "model.safetensors", *(f"{number}.txt" for number in range(100))):
        bucket.put(f"model/{name}", image_bytes(name, size=30_000))
    sources = [bucket.put_images(), bucket.put("x.zip", zip_of(EVERYTHING)), bucket.put("x.tgz", tar_of(EVERYTHING))]
    jobs = [make_job(dataset__images=uri, model__initFrom=f"{bucket.uri}/model") for uri in sources]
    moments = random.Random(0)
    wrong = []
    for number in range(24):
        cache = tmp_path / f"cache{number % 4}"
        with started(settings(), jobs[number % 3], cache) as process, contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(1.0, 2.5))
        for journal in cache.glob("*/.*.journal"):
            folder = journal.with_name(journal.name[1:].removesuffix(".journal"))
            names = parse_journal(journal.read_bytes()) if folder.is_dir() else ()  # a complete folder has moved
            wrong += [name for name in names if not is_right(folder / name)]
        for folder in cache.glob("folders/[!.]*"):
            wrong += [folder.name] if len(list(folder.iterdir())) != 102 else []

    for number in range(4):
        for job in jobs:
            places = fetch_inputs(job, watched.storage, tmp_path / f"cache{number}", should_stop=lambda: False)
            assert fetched_images(places) == originals(USED)
            assert len(list(Path(places.paths["spec.model.initFrom"]).iterdir())) == 102
    assert wrong == []


def is_right(path: Path) -> bool:
    return path.read_bytes() == image_bytes(path.name, size=3000 if path.suffix == ".jpg" else 30_000)


def test_a_folder_is_never_seen_half_fetched(
    bucket: Bucket, watched: Watched, make_job: Jobs, settings: Settings, faults: ModuleType
) -> None:
    contents = {f"{number}.json": b"[%d]" % number for number in range(6)}
    for name, content in contents.items():
        bucket.put(f"masks/{name}", content)
    precomputed = {"generator": "Precomputed", "precomputed": {"path": f"{bucket.uri}/masks"}}
    resolved = make_job(proposals=precomputed)
    watched.proxy.decide = gate = faults.Gate(2, is_content)
    with started(settings(endpoint_url=watched.proxy.url), resolved, watched.cache):
        wait_for(lambda: journaled(watched.cache) == 2)
    left = [path.name for path in (watched.cache / "folders").iterdir() if not path.name.startswith(".")]
    gate.open()

    places = watched.fetch(resolved)

    folder = Path(places.paths["spec.proposals.precomputed.path"])
    assert left == []
    assert (places.found_files, places.fetched_files) == (2, 4)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents


def test_two_processes_fetch_each_object_once(
    bucket: Bucket, watched: Watched, make_job: Jobs, settings: Settings, tmp_path: Path
) -> None:
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        bucket.put(f"bert/{name}", name.encode())
    inputs = {
        "dataset__annotations": bucket.put_annotations(tmp_path / "written"),
        "dataset__images": bucket.put_images(),
        "model__bert": f"{bucket.uri}/bert",
        "model__swin": bucket.put("swin.pth", b"weights"),
        "model__vocab": None,
    }
    jobs = [make_job(**inputs), make_job(**inputs, dataset__evaluate=["val", "testA"])]
    watched.proxy.forget()
    direct = settings(endpoint_url=watched.proxy.url)
    with started(direct, jobs[0], watched.cache) as first, started(direct, jobs[1], watched.cache) as second:
        answers = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in (first, second)]

    places = [Places.from_json(json.loads(answer)) for answer in answers]
    assert places[0].paths == places[1].paths
    assert fetched_images(places[0]) == originals([*USED, NAMES[9]])
    assert Counter(watched.contents()).most_common(1)[0][1] == 1
    assert len(watched.contents()) == 9 + 2 + 3 + 1
    assert sum(place.fetched_files for place in places) == 15


@pytest.mark.parametrize("kind", ["prefix", "zip", "tar"])
def test_through_a_failing_server_everything_arrives(
    kind: str, bucket: Bucket, make_proxy: Any, make_storage: Callable[..., Storage], faults: ModuleType,
    make_job: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("semires_trainer.fetch.zip.SPAN_BYTES", 1)
    monkeypatch.setattr("semires_trainer.fetch.tar.PART_BYTES", 4000)
    uri = {
        "prefix": lambda: bucket.put_images(),
        "zip": lambda: bucket.put("x.zip", zip_of(EVERYTHING)),
        "tar": lambda: bucket.put("x.tar", tar_of(EVERYTHING)),
    }[kind]()
    proxy = make_proxy(faults.Faults(seed=7))
    storage = make_storage(endpoint_url=proxy.url, patience_seconds=300.0, read_timeout_seconds=1.0)

    places = fetch_inputs(make_job(dataset__images=uri), storage, tmp_path / "cache", should_stop=lambda: False)

    assert fetched_images(places) == originals(USED)
    assert [exchange.status for exchange in proxy.exchanges() if exchange.status >= 500]


def test_a_process_that_waits_for_another_can_be_stopped(
    bucket: Bucket, watched: Watched, make_job: Jobs, settings: Settings, faults: ModuleType
) -> None:
    resolved = make_job(model__initFrom=bucket.put("lavt.pth", image_bytes("lavt")))
    watched.proxy.decide = gate = faults.Gate(0, is_content)
    with started(settings(endpoint_url=watched.proxy.url), resolved, watched.cache):
        wait_for(lambda: bool(list(watched.cache.glob("files/*/.lavt.pth.part.journal"))))
        with pytest.raises(StopRequested):
            fetch_inputs(resolved, watched.storage, watched.cache, should_stop=lambda: True)
    gate.open()
