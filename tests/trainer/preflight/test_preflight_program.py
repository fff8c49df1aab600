"""The program of the pod: quick, small, and never silent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    out, log = process.communicate(timeout=120)
    return process.returncode, json.loads(out), log


def test_torch_is_never_imported(scene: Any) -> None:
    program = (
        "import os, sys, time\n"
        "from semires_trainer.preflight.run import run_preflight\n"
        "code = run_preflight(os.environ, began=time.monotonic())\n"
        "heavy = {'torch', 'transformers', 'timm', 'skimage', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)\n"
    )
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**scene.whole_environment(), "PYTHONPATH": path, "PATH": os.environ["PATH"]}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_one_line_on_stdout_is_the_termination_message(scene: Any) -> None:
    with scene.start() as process:
        code, outcome, _ = ended(process)

    assert (code, outcome["exitCode"]) == (0, 0)
    assert outcome == json.loads((scene.folder / "termination-log").read_bytes())


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server to which one can connect, and which never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        listening.settimeout(60)
        yield listening


def url_of(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_silent_server_is_given_up_before_the_deadline(scene: Any, silent: socket.socket) -> None:
    scene.set("preflight.deadlineSeconds", 15)

    began = time.monotonic()
    with scene.start(SEMIRES_ENDPOINT_URL=url_of(silent)) as process:
        code, outcome, _ = ended(process)

    assert time.monotonic() - began < 15
    assert (code, outcome["error"]["reason"], outcome["error"]["field"]) == (150, "StorageUnavailable", "spec.output")


def test_whatever_hangs_the_deadline_is_kept(local_scene: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "annotations.json")  # a disk that does not answer
    local_scene.set("dataset.name", "Custom")
    local_scene.set("dataset.annotations", str(tmp_path / "annotations.json"))
    local_scene.set("dataset.evaluate", ["val"])
    local_scene.set("preflight.deadlineSeconds", 10)

    began = time.monotonic()
    with local_scene.start() as process:
        code, outcome, _ = ended(process)

    assert time.monotonic() - began < 10
    assert (code, outcome["error"]["field"]) == (150, "spec.preflight.deadlineSeconds")
    assert "the preflight is not done after 9 s; it is at the data set" in outcome["error"]["message"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_is_obeyed_at_once_whatever_hangs(scene: Any, silent: socket.socket, number: int, code: int) -> None:
    with scene.start(SEMIRES_ENDPOINT_URL=url_of(silent)) as process:
        connection, _ = silent.accept()
        process.send_signal(number)
        began = time.monotonic()
        told = ended(process)
        connection.close()

    assert time.monotonic() - began < 2
    assert (told[0], told[1]["exitCode"]) == (code, code)
    assert told[1]["stopped"]["message"] == "The preflight was at spec.output; it leaves nothing to be saved."


def test_a_bug_is_told_as_one(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semires_trainer.preflight.checks.image_files", None)

    told = scene.run()

    assert (told.code, told.error["reason"]) == (1, "Unexpected")
    assert told.message.startswith("TypeError: 'NoneType' object is not callable. This is a bug")
