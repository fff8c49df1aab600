"""What a pod is told by its environment."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semires_trainer.config import SemiRESJob
from semires_trainer.errors import ConfigError
from semires_trainer.launch import nodes_of
from semires_trainer.orders import Attempt, ControlFolder, Orders, attempt_of, control_folder, read_orders
from semires_trainer.outcome import LONGEST_BYTES
from semires_trainer.pod_run import LONGEST_DOCUMENT, document_of, run_pod
from semires_trainer.ranks import command_of

MakeJob = Callable[..., SemiRESJob]


def environment_of(text: str | bytes, **more: str) -> dict[str, str]:
    content = text.encode() if isinstance(text, str) else text
    document = content.decode("utf-8", "surrogateescape")
    return {"SEMIRES_DOCUMENT": document, "SEMIRES_DOCUMENT_SHA256": hashlib.sha256(content).hexdigest(), **more}


@pytest.fixture
def text(job: MakeJob, tmp_path: Path) -> str:
    """The document of a job."""
    return job(output=str(tmp_path / "out")).model_dump_json(by_alias=True, exclude_unset=True)


def test_the_document_is_the_job(job: MakeJob, text: str, tmp_path: Path) -> None:
    assert document_of(environment_of(text)) == job(output=str(tmp_path / "out"))


def test_another_sha256_is_refused(text: str) -> None:
    environment = {**environment_of(text), "SEMIRES_DOCUMENT_SHA256": hashlib.sha256(b"").hexdigest()}

    with pytest.raises(
        ConfigError, match="SEMIRES_DOCUMENT_SHA256: the document does not have the sha256 that is given"
    ):
        document_of(environment)


def test_a_document_without_a_sha256_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="does not have the sha256"):
        document_of({"SEMIRES_DOCUMENT": text})


def test_an_absent_document_is_told() -> None:
    with pytest.raises(ConfigError, match=f"the document has 0 bytes, 1 to {LONGEST_DOCUMENT} are expected"):
        document_of({})


def test_length_is_counted_in_bytes() -> None:
    letters = LONGEST_DOCUMENT // 2 + 1

    with pytest.raises(ConfigError, match=rf"the document has {2 * letters} bytes.*imageIdsFile"):
        document_of(environment_of("ü" * letters))


@pytest.mark.parametrize("text", ["{", b'{"kind": "\xff"}'], ids=["cut-short", "not-utf-8"])
def test_what_is_no_json_is_told(text: str | bytes) -> None:
    with pytest.raises(ConfigError, match="SEMIRES_DOCUMENT: the document is not JSON"):
        document_of(environment_of(text))


def test_a_document_that_is_no_job_names_the_field() -> None:
    with pytest.raises(ConfigError, match="metadata: is missing"):
        document_of(environment_of('{"apiVersion": "semires.dev/v1alpha1", "kind": "SemiRESJob"}'))


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        pytest.param({"SEMIRES_DOCUMENT_SHA256": "0"}, 2, "sha256", id="document"),
        pytest.param({"SEMIRES_ATTEMPT": "two"}, 2, "SEMIRES_ATTEMPT: the attempt is a number", id="attempt"),
        pytest.param({"SEMIRES_PORT": "http"}, 2, "SEMIRES_PORT: 'http' is no port", id="port"),
        pytest.param({"SEMIRES_PORT": "65536"}, 2, "SEMIRES_PORT: '65536' is no port", id="port-too-large"),
        pytest.param({"PET_NNODES": "1:4"}, 2, "PET_NNODES: a run has a fixed number of nodes", id="nodes"),
        pytest.param({"PET_NPROC_PER_NODE": "5"}, 2, "multiple of 5", id="ranks"),
        pytest.param({"SEMIRES_ENDPOINT_URL": "ftp://host"}, 2, "not the URL of an endpoint", id="endpoint"),
    ],
)
def test_what_is_wrong_before_the_start_is_left_in_the_termination_message(
    text: str, tmp_path: Path, changes: dict[str, str], code: int, told: str
) -> None:
    message = tmp_path / "termination"
    given = {"SEMIRES_TERMINATION_LOG": str(message), "SEMIRES_JOB_UID": "job-1", "SEMIRES_POD_UID": "pod-1"}

    exit_code = run_pod({**environment_of(text), **given, "SEMIRES_CACHE": str(tmp_path / "cache"), **changes})

    outcome = json.loads(message.read_bytes())
    assert exit_code == outcome["exitCode"] == code
    assert told in outcome["error"]["message"]
    assert (outcome["jobUid"], outcome["podUid"]) == ("job-1", "pod-1")
    assert message.stat().st_size <= LONGEST_BYTES


@pytest.mark.parametrize(("text", "nodes"), [("", 1), ("1", 1), ("1:1", 1), ("4", 4), ("2:2", 2)])
def test_nodes_are_what_torchrun_is_told(text: str, nodes: int) -> None:
    assert nodes_of({"PET_NNODES": text}) == nodes


@pytest.mark.parametrize("text", ["1:2", "0", "0:0", "two", "-1", "1:", ":1", "1.5"])
def test_a_number_of_nodes_that_is_not_fixed_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"PET_NNODES: a run has a fixed number of nodes, got '{text}'"):
        nodes_of({"PET_NNODES": text})


def test_one_process_is_started_without_torchrun(tmp_path: Path) -> None:
    alone = command_of(tmp_path, "1", {})

    assert alone[1:] == ["-m", "semires_trainer.tether", "semires_trainer.rank", str(tmp_path)]


@pytest.mark.parametrize(
    ("processes", "environment", "standalone"),
    [
        pytest.param("4", {}, True, id="one-node"),
        pytest.param("gpu", {"PET_NNODES": "1:1"}, True, id="as-many-as-there-are"),
        pytest.param("1", {"PET_NNODES": "2"}, False, id="two-nodes"),
    ],
)
def test_several_processes_are_started_by_torchrun(
    tmp_path: Path, processes: str, environment: dict[str, str], standalone: bool
) -> None:
    command = command_of(tmp_path, processes, environment)

    assert command[1:4] == ["-m", "semires_trainer.tether", "torch.distributed.run"]
    assert ("--standalone" in command) is standalone
    assert (f"--nproc-per-node={processes}" in command) is standalone
    assert command[-3:] == ["-m", "semires_trainer.rank", str(tmp_path)]


def test_an_attempt_is_what_the_operator_says() -> None:
    environment = {"SEMIRES_JOB_UID": "job-1", "SEMIRES_ATTEMPT": "3", "SEMIRES_POD_UID": "pod-1"}

    assert attempt_of("small", environment) == Attempt(job="small", job_uid="job-1", number=3, pod_uid="pod-1")


def test_local_attempts_have_identities_of_their_own() -> None:
    first, second = attempt_of("small", {}), attempt_of("small", {})

    assert (first.number, first.job_uid) == (0, "")
    assert first.pod_uid != second.pod_uid


def test_orders_reach_the_ranks_unchanged(tmp_path: Path) -> None:
    orders = Orders(
        job={"kind": "SemiRESJob"},
        places={"spec.model.vocab": "/c/d"},
        store="/s",
        work="/w",
        identity="0f",
        stages=("train", "evaluate"),
        attempt=Attempt(job="small", number=2, pod_uid="p"),
    )

    orders.write(tmp_path / "orders.json")

    assert read_orders(tmp_path / "orders.json") == orders


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        pytest.param({}, ".run", id="alone"),
        pytest.param({"PET_NNODES": "1", "SEMIRES_POD_NAME": "a-0"}, ".run", id="one-node"),
        pytest.param({"PET_NNODES": "2", "SEMIRES_POD_NAME": "a-0"}, ".run-a-0", id="two-nodes"),
        pytest.param({"PET_NNODES": "2:2", "HOSTNAME": "h"}, ".run-h", id="two-machines"),
    ],
)
def test_nodes_that_share_a_work_folder_have_control_folders_of_their_own(
    tmp_path: Path, environment: dict[str, str], name: str
) -> None:
    assert control_folder(tmp_path, environment).path == tmp_path / name


def test_a_new_attempt_forgets_what_the_last_one_left(tmp_path: Path) -> None:
    control = ControlFolder(tmp_path / ".run")
    control.clear()
    left: list[Any] = [
        *(control.orders, control.progress, control.checkpoint_request, control.log),
        *(control.rank(0), control.failure(0), control.stacks(0)),
    ]
    kept = [control.path / "run-id", control.bad_images / "picture.json"]
    for path in [*left, *kept]:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")

    control.clear()

    assert {path for path in control.path.rglob("*") if path.is_file()} == set(kept)


def listens(pid: int, number: int) -> bool:
    """Whether a process handles a signal: proc(5), SigCgt."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_pod_hears_a_stop_before_it_has_loaded_anything(text: str, tmp_path: Path) -> None:
    """The first moment at which PID 1 can hear it at all: without a handler the kernel would drop the signal."""
    message = tmp_path / "termination"
    environment = {
        **os.environ,
        **environment_of(text, SEMIRES_TERMINATION_LOG=str(message), SEMIRES_CACHE=str(tmp_path / "cache")),
        "SEMIRES_PORT": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "semires_trainer.pod"], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as pod:
        deadline = time.monotonic() + 30
        while not listens(pod.pid, signal.SIGTERM):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        pod.send_signal(signal.SIGTERM)

        assert pod.wait(timeout=60) == 143

    outcome = json.loads(message.read_bytes())
    assert outcome["exitCode"] == 143
    assert "Nothing was being trained yet" in outcome["stopped"]["message"]
