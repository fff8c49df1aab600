"""Processes that outlive the one that started them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from testbed import runs
from testbed.processes import Processes, identity_of

SLEEP = ("sleep", "60")


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def test_a_process_runs_until_it_is_stopped(processes: Processes) -> None:
    processes.start("sleeper", SLEEP)
    identity = processes.identity("sleeper")
    ran = identity.alive
    processes.stop("sleeper")

    assert ran
    assert not identity.alive
    assert processes.names() == []


def test_what_ignores_the_request_to_end_is_killed(processes: Processes, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    processes.start("stubborn", ["sh", "-c", f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done"])
    while not ready.exists():
        time.sleep(0.01)

    processes.stop("stubborn", seconds=0.2)

    assert not processes.alive("stubborn")


def test_the_log_has_what_it_says(processes: Processes) -> None:
    processes.start("speaker", ["sh", "-c", "echo out; echo error >&2"])
    while processes.alive("speaker"):
        time.sleep(0.01)

    assert processes.tail("speaker") == "out\nerror\n"


def test_a_process_that_has_ended_is_an_error_with_its_last_words(processes: Processes) -> None:
    processes.start("speaker", ["sh", "-c", "echo my last words"])
    while processes.alive("speaker"):
        time.sleep(0.01)

    with pytest.raises(RuntimeError, match="speaker has ended: my last words"):
        processes.check("speaker")


def test_another_process_with_an_old_id_is_left_alone(processes: Processes) -> None:
    with subprocess.Popen(SLEEP) as other:
        identity = identity_of(other.pid)
        old = dataclasses.replace(identity, start=identity.start - 1)
        (processes.folder / "processes" / "old.json").write_text(json.dumps(dataclasses.asdict(old)))
        processes.stop("old")
        survives = other.poll() is None
        other.kill()

    assert survives


def test_an_unknown_program_is_named(processes: Processes) -> None:
    with pytest.raises(RuntimeError, match="one: there is no program no-such-program"):
        processes.start("one", ["no-such-program"])


def test_what_a_killed_owner_left_is_ended_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIRES_CACHE", str(tmp_path))
    script = (
        "import os, signal\n"
        "from testbed import runs\nfrom testbed.processes import Processes\n"
        "Processes(runs.new_run('api')).start('sleeper', ['sleep', '60'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(runs.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], env=environment)
    (left,) = runs.runs_folder().iterdir()
    sleeper = Processes(left).identity("sleeper")
    ran = sleeper.alive

    runs.clean_leftovers()

    assert ran
    assert not sleeper.alive
    assert not left.exists()


def test_a_cluster_whose_owner_lives_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIRES_CACHE", str(tmp_path))
    folder = runs.new_run("api")
    Processes(folder).start("sleeper", SLEEP)

    runs.clean_leftovers()
    survives = Processes(folder).alive("sleeper")
    runs.end_run(folder)

    assert survives


def test_a_signal_to_what_has_ended_does_nothing(processes: Processes) -> None:
    processes.start("speaker", ["true"])
    while processes.alive("speaker"):
        time.sleep(0.01)

    processes.identity("speaker").signal(signal.SIGTERM)
