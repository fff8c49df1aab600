"""Runs that end before they begin: an output that is no folder, or that another manifest has just taken."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer import launch, pod_run
from semires_trainer.config import SemiRESJob, resolve, training_hash
from semires_trainer.identity import claim_output
from semires_trainer.orders import ControlFolder
from semires_trainer.storage import Storage
from semires_trainer.supervisor import supervise
from semires_trainer.workplace import locked, work_folder

MakeJob = Callable[..., SemiRESJob]


@pytest.fixture(params=["out", "out/run"], ids=["itself", "above-it"])
def no_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An output where a file is."""
    (tmp_path / "out").write_text("a file")
    return tmp_path / str(request.param)


def test_an_output_that_is_a_file_ends_the_run_with_2_and_stays(job: MakeJob, no_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(launch.RunFailed, match=f"spec.output: the folder {no_folder} can't be made: .*Name") as failed:
        launch.run(job(output=str(no_folder)))

    assert failed.value.exit_code == 2
    assert (tmp_path / "out").read_text() == "a file"


def run_pod(job: SemiRESJob, tmp_path: Path, **more: str) -> dict[str, Any]:
    """The termination message of a pod that runs a job, with more variables."""
    document, message = job.model_dump_json(by_alias=True, exclude_unset=True), tmp_path / "termination"
    environment = {
        "SEMIRES_DOCUMENT": document,
        "SEMIRES_DOCUMENT_SHA256": hashlib.sha256(document.encode()).hexdigest(),
        "SEMIRES_TERMINATION_LOG": str(message),
        "SEMIRES_PORT": "0",
        **more,
    }
    code = pod_run.run_pod(environment)
    outcome: dict[str, Any] = json.loads(message.read_bytes())
    assert outcome["exitCode"] == code
    return outcome


def test_a_pod_tells_that_its_output_is_a_file(job: MakeJob, no_folder: Path, tmp_path: Path) -> None:
    outcome = run_pod(job(output=str(no_folder)), tmp_path)

    assert outcome["exitCode"] == 2
    assert outcome["error"]["field"] == "spec.output"
    assert "can't be made" in outcome["error"]["message"]


def test_a_pod_tells_that_another_run_writes_to_its_output(job: MakeJob, tmp_path: Path) -> None:
    control = ControlFolder(tmp_path / "out" / ".run")
    control.path.mkdir(parents=True)
    with locked(control, tmp_path / "out"):
        outcome = run_pod(job(output=str(tmp_path / "out")), tmp_path)

    assert outcome["exitCode"] == 150
    assert "another run writes to" in outcome["error"]["message"]


def fail_with(number: int) -> Callable[..., None]:
    """A call of the system that fails."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        pytest.param(errno.ENOSPC, "DiskFull", id="full"),
        pytest.param(errno.EDQUOT, "DiskFull", id="quota"),
        pytest.param(errno.ESTALE, "Infrastructure", id="stale"),
        pytest.param(errno.EIO, "Infrastructure", id="broken"),
    ],
)
def test_a_disk_that_fails_when_the_folder_is_made_may_be_tried_again(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    monkeypatch.setattr(os, "mkdir", fail_with(number))

    outcome = run_pod(job(output=str(tmp_path / "out")), tmp_path)

    assert (outcome["exitCode"], outcome["error"]["reason"]) == (150, reason)


@pytest.mark.parametrize(
    ("output", "more", "field"),
    [
        pytest.param("out", {"SEMIRES_POD_UID": "pod"}, "spec.output", id="output"),
        pytest.param("s3://bucket/out", {"SEMIRES_POD_UID": "pod"}, "spec.cache.claim", id="claim"),
        pytest.param("s3://bucket/out", {}, "SEMIRES_CACHE", id="cache-of-a-machine"),
    ],
)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS], ids=["no-permission", "read-only"])
def test_a_folder_that_cannot_be_written_to_is_named_by_its_field(
    job: MakeJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    output: str,
    more: dict[str, str],
    field: str,
) -> None:
    monkeypatch.setattr(os, "mkdir", fail_with(number))

    outcome = run_pod(job(output=output), tmp_path, SEMIRES_CACHE=str(tmp_path / "cache"), **more)

    assert (outcome["exitCode"], outcome["error"]["field"]) == (2, field)
    assert ("spec.pod.fsGroup" in outcome["error"]["message"]) == (field == "spec.cache.claim")


def test_a_lock_that_the_disk_refuses_may_be_tried_again(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", fail_with(errno.ENOLCK))

    outcome = run_pod(job(output=str(tmp_path / "out")), tmp_path)

    assert (outcome["exitCode"], outcome["error"]["reason"]) == (150, "Infrastructure")


def test_a_disk_that_is_full_before_the_ranks_start_has_an_outcome(
    job: MakeJob, server: Any, servers: ModuleType, credentials: Path, output: str, tmp_path: Path
) -> None:
    environment = {
        "SEMIRES_ENDPOINT_URL": server.url,
        "SEMIRES_ENDPOINT_REGION": servers.REGION,
        "SEMIRES_CREDENTIALS": str(credentials),
        "SEMIRES_CACHE": str(tmp_path / "cache"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", fail_with(errno.ENOSPC))
        outcome = run_pod(job(output=output), tmp_path, **environment)

    assert (outcome["exitCode"], outcome["error"]["reason"]) == (150, "DiskFull")
    assert str(work_folder(resolve(job(output=output)), tmp_path / "cache")) in outcome["error"]["message"]


def test_a_termination_message_that_cannot_be_written_costs_no_outcome(job: MakeJob, tmp_path: Path) -> None:
    given = launch.supervision_of(
        job(output=str(tmp_path / "out")),
        {"SEMIRES_TERMINATION_LOG": str(tmp_path / "absent" / "message")},
        processes="1",
        stages=("train",),
        endpoints={},
        port=None,
    )

    assert supervise(given)["exitCode"] == 3


def test_an_output_that_another_manifest_takes_between_check_and_claim_is_left_to_it(
    job: MakeJob,
    storage: Storage,
    make_proxy: Callable[..., Any],
    credentials: Path,
    servers: ModuleType,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is trained there yet, so a record may be replaced."""
    other = resolve(job(output=output, seed=2))

    def overtake(request: Any) -> None:
        if request.method == "PUT" and request.path.endswith("/owner.json"):
            claim_output(storage, output, other)

    environment = {
        "SEMIRES_ENDPOINT_URL": make_proxy(overtake).url,
        "SEMIRES_ENDPOINT_REGION": servers.REGION,
        "SEMIRES_CREDENTIALS": str(credentials),
        "SEMIRES_CACHE": str(tmp_path / "cache"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(launch.RunFailed, match=f"holds the run {training_hash(other)[:12]}") as failed:
        launch.run(job(output=output, seed=1))

    assert failed.value.exit_code == 2
    assert json.loads(storage.read_bytes(f"{output}/run.json").data)["identity"] == training_hash(other)
    assert {stat.uri.rpartition("/")[2] for stat in storage.list(output)} == {"run.json", "owner.json"}


@pytest.mark.parametrize("record", ["run.json", "owner.json", "checkpoints.json"])
def test_sigterm_while_a_record_is_waited_for_ends_the_start_at_once(
    job: MakeJob,
    make_proxy: Callable[..., Any],
    faults: ModuleType,
    credentials: Path,
    servers: ModuleType,
    output: str,
    tmp_path: Path,
    record: str,
) -> None:
    """The server is silent once; a signal that is taken for a broken connection would be followed by another try."""
    asked, over = threading.Event(), threading.Event()

    def be_silent_once(request: Any) -> Any:
        if not request.path.endswith(f"/{record}") or asked.is_set():
            return None
        asked.set()
        os.kill(os.getpid(), signal.SIGTERM)
        over.wait(30)
        return faults.RESET_REQUEST

    environment = {
        "SEMIRES_ENDPOINT_URL": make_proxy(be_silent_once).url,
        "SEMIRES_ENDPOINT_REGION": servers.REGION,
        "SEMIRES_CREDENTIALS": str(credentials),
        "SEMIRES_CACHE": str(tmp_path / "cache"),
    }
    outcome = run_pod(job(output=output), tmp_path, **environment)
    over.set()

    assert outcome["exitCode"] == 143
    assert "Nothing was being trained yet" in outcome["stopped"]["message"]
