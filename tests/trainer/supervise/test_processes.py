"""Real processes: two runs that want one output, a supervisor that is killed, a port that is taken."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from semires_trainer.config import SemiRESJob, resolve
from semires_trainer.inputs import input_uris
from semires_trainer.orders import ControlFolder
from semires_trainer.ranks import Ranks, process_state

MakeJob = Callable[..., SemiRESJob]
Started = subprocess.Popen[str]
SECONDS = 60.0


@pytest.fixture
def started(job: MakeJob, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start `semires run` on an output of this test; killed at the end. Its inputs are there, and hold nothing."""
    processes: list[Started] = []
    manifest = tmp_path / "job.json"
    made = job(output=str(tmp_path / "out"))
    manifest.write_text(made.model_dump_json(by_alias=True, exclude_unset=True))
    for _, name in input_uris(resolve(made)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def start(*options: str) -> Started:
        command = [sys.executable, "-m", "semires_trainer", "run", str(manifest), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def control(tmp_path: Path) -> ControlFolder:
    return ControlFolder(tmp_path / "out" / ".run")


def until(condition: Callable[[], object], *, seconds: float = SECONDS, what: str = "it") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    found = process_state(pid)
    return found is not None and found[0] not in "ZX"


def children_of(pid: int) -> list[int]:
    """All descendants of a process."""
    try:
        texts = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
    own = [int(child) for text in texts for child in text.split()]
    return [*own, *(below for child in own for below in children_of(child))]


@contextmanager
def halted(process: Started) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_the_second_of_two_runs_on_one_output_ends_with_150_and_touches_nothing(
    started: Callable[..., Started], control: ControlFolder
) -> None:
    first = started()
    until(control.orders.is_file, what="the first run")
    orders = control.orders.read_bytes()
    with halted(first):
        second = started()
        _, messages = second.communicate(timeout=SECONDS)

    assert second.returncode == 150
    assert "Error: spec.output: another run writes to" in messages
    assert messages.rstrip().endswith("Wait for it, or end it")
    assert "Traceback" not in messages
    assert control.orders.read_bytes() == orders


def test_a_run_that_was_killed_does_not_block_the_next_one(
    started: Callable[..., Started], control: ControlFolder
) -> None:
    first = started()
    until(control.orders.is_file, what="the first run")
    first.kill()
    first.wait()

    started()

    def number() -> int:
        return json.loads(control.orders.read_text())["attempt"]["number"] if control.orders.is_file() else 0

    until(lambda: number() == 2, what="the second attempt")


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_are_gone_within_2_seconds_after_their_supervisor_was_killed(
    started: Callable[..., Started], control: ControlFolder, ranks: int
) -> None:
    """Killed outright, it cannot end them: the kernel does."""
    supervisor = started("--nproc", str(ranks))
    records = [control.rank(rank) for rank in range(ranks)]
    until(lambda: all(record.is_file() for record in records), what="the start of the ranks")
    pids = [json.loads(record.read_text())["pid"] for record in records]
    below = children_of(supervisor.pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # they cannot end by themselves meanwhile
    assert set(pids) <= set(below)

    supervisor.kill()
    supervisor.wait()

    until(lambda: not any(is_alive(pid) for pid in pids), seconds=2.0, what="the end of the ranks")
    until(lambda: not any(is_alive(pid) for pid in below), seconds=2.0, what="the end of torchrun")


def test_a_tethered_process_ends_with_its_parent_even_if_that_is_gone_already(tmp_path: Path) -> None:
    """The parent ends before the child could ask the kernel for anything."""
    script = tmp_path / "leave.py"
    script.write_text(
        "import os, subprocess, sys\n"
        "command = [sys.executable, '-m', 'semires_trainer.tether', 'http.server', '0']\n"
        "tethered = {**os.environ, 'SEMIRES_PARENT': str(os.getpid())}\n"
        "nowhere = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}\n"
        "print(subprocess.Popen(command, env=tethered, start_new_session=True, **nowhere).pid, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)

    until(lambda: not is_alive(int(done.stdout)), seconds=5.0, what="the end of the child")


def test_a_tethered_module_gets_its_arguments_and_its_exit_code_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "tethered.py").write_text("import sys\nprint(__name__, sys.argv[1:])\nsys.exit(7)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "semires_trainer.tether", "tethered", "a", "--b"]

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (7, "__main__ ['a', '--b']\n")


def test_a_port_that_is_taken_ends_the_run_before_it_touches_the_output(
    started: Callable[..., Started], control: ControlFolder
) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
        port = taken.getsockname()[1]
        run = started("--port", str(port))
        _, messages = run.communicate(timeout=SECONDS)

    assert run.returncode == 150
    assert f"{port}" in messages
    assert "Traceback" not in messages
    assert not control.orders.exists()
    assert not (control.path.parent / "run.json").exists()


@pytest.fixture
def innocent() -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture
def ended(tmp_path: Path) -> Ranks:
    """Ranks without orders, which end at once; their end was noticed."""
    control = ControlFolder(tmp_path / "control")
    control.path.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ranks = Ranks(control, "1", environment=environment, on_line=lambda _: None)
    until(lambda: ranks.poll() is not None, what="the end of the ranks")
    ranks.finish()
    return ranks


def introduce(ranks: Ranks, number: int, process: subprocess.Popen[bytes], *, later: int = 0) -> None:
    """The record of a rank whose process has the number of this one, and began `later` ticks before it."""
    found = process_state(process.pid)
    assert found is not None
    record = {"rank": number, "pid": process.pid, "started": found[1] - later}
    ranks._control.rank(number).write_text(json.dumps(record))


def test_a_process_that_has_got_the_number_of_a_rank_is_no_rank(
    ended: Ranks, innocent: subprocess.Popen[bytes]
) -> None:
    introduce(ended, 0, innocent)
    introduce(ended, 1, innocent, later=1)

    assert [(state.rank, state.state, state.is_alive) for state in ended.states()] == [(0, "S", True), (1, "", False)]


def test_only_ranks_are_killed(ended: Ranks, innocent: subprocess.Popen[bytes]) -> None:
    """The kernel gives the numbers of ended processes to others: here that of a rank and that of torchrun."""
    introduce(ended, 0, innocent, later=1)
    ended._process.pid = innocent.pid
    with subprocess.Popen(["sleep", "600"]) as lost:
        introduce(ended, 1, lost)

        ended.kill()

        assert lost.wait(SECONDS) == -signal.SIGKILL
    assert ended.stacks() == {}
    assert innocent.poll() is None
