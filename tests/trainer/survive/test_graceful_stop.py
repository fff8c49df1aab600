"""SIGTERM at any moment: a checkpoint of the current step, exit code 143, nothing lost."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

STOPPED = 143
BOUND_SECONDS = 10.0
"""On a CPU, from the signal to the end of the program."""
Document = Callable[..., dict[str, Any]]
SLACK = 3.0
"""Tests share two cores: the bound is for a machine of one's own."""


def stop(program: Any, target: str) -> float:
    """Send SIGTERM to the supervisor or to torchrun; the seconds until the program has ended."""
    began = time.monotonic()
    program.send(target, signal.SIGTERM)
    program.end()
    return time.monotonic() - began


def steps_logged(work: Path) -> int:
    """The newest step in metrics.jsonl: it was done, so it must be in the checkpoint."""
    path = work / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return max((record["step"] for record in records), default=0)


@pytest.mark.parametrize(
    ("target", "processes", "moment"),
    [
        pytest.param("supervisor", 1, "start", id="init"),
        pytest.param("supervisor", 1, "evaluate", id="evaluation"),
        pytest.param("supervisor", 2, "step", id="step"),
        pytest.param("torchrun", 2, "save", id="torchrun-in-a-save"),
        pytest.param("supervisor", 1, "fetch", id="before-the-ranks"),
    ],
)
def test_sigterm_saves_the_current_step(
    programs: ModuleType, document_of: Document, tmp_path: Path, target: str, processes: int, moment: str
) -> None:
    output = tmp_path / "out"
    moments = {
        "fetch": lambda program: (program.control.path / "lock").is_file(),
        "start": lambda program: programs.has_ranks(program, processes),
        "evaluate": programs.in_stage("evaluate"),
        "step": lambda program: programs.step_of(program) >= 4,
        "save": programs.is_saving,
    }
    document = document_of(output, burnInEpochs=50, logIntervalSteps=1)
    with programs.started(document, tmp_path, "--nproc", str(processes)) as program:
        assert program.wait_for(moments[moment]), program.text()[-4000:]
        seconds = stop(program, target)

    assert program.process.returncode == STOPPED, program.text()[-4000:]
    assert seconds <= SLACK * BOUND_SECONDS
    assert programs.saved_steps(output) >= steps_logged(output)
    assert "Stopped on request" in program.text().splitlines()[-1]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_sigterm_at_50_random_instants(programs: ModuleType, document_of: Document, tmp_path: Path, seed: int) -> None:
    """Inside init, saves and evaluations too, to the supervisor or to torchrun: the run goes on where it was."""
    chance, slowest, unheard, unlucky = random.Random(seed), 0.0, 0, []
    output = tmp_path / "out"
    for number in range(50):
        processes = chance.choice([1, 1, 2])
        target = chance.choice(["supervisor", "torchrun"]) if processes > 1 else "supervisor"
        document = document_of(output, burnInEpochs=3000, logIntervalSteps=1, checkpoint={"intervalSteps": 5})
        with programs.started(document, tmp_path / "run", "--nproc", str(processes)) as program:
            until = time.monotonic() + chance.uniform(0.2, 14.0)
            assert program.wait_for(lambda _, until=until: time.monotonic() >= until), program.text()[-4000:]
            if target == "torchrun" and not program.control.rank(0).is_file():
                target = "supervisor"
            seconds = stop(program, target)
        slowest = max(slowest, seconds)
        if program.process.returncode == -signal.SIGTERM and not program.text():
            unheard += 1  # Python itself was starting: the signal ended it, which a shell reports as 143, too
            continue
        if program.process.returncode != STOPPED or programs.saved_steps(output) < steps_logged(output):
            unlucky.append((number, target, processes, program.process.returncode, program.text()[-1500:]))
    done = programs.saved_steps(output)
    print(f"slowest stop {slowest:.1f} s, {unheard} before anything ran, {done} steps done")  # noqa: T201 (for the record)

    assert not unlucky
    assert unheard <= 5
    assert slowest <= SLACK * BOUND_SECONDS


def test_a_second_signal_ends_it_at_once(programs: ModuleType, document_of: Document, tmp_path: Path) -> None:
    with programs.started(document_of(tmp_path / "out", burnInEpochs=50), tmp_path) as program:
        assert program.wait_for(lambda program: programs.step_of(program) >= 4)
        pid = program.rank_pid(0)
        program.send("rank", signal.SIGSTOP)  # it can't react to the first one
        program.send("supervisor", signal.SIGTERM)
        time.sleep(0.5)
        assert program.process.poll() is None
        began = time.monotonic()
        program.send("supervisor", signal.SIGTERM)
        program.end()

    assert time.monotonic() - began < 5
    assert program.process.returncode == STOPPED
    assert not programs.is_running(pid)
