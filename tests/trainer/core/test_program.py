"""`semires run` as a real program: signals, several processes, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.checkpoint_folders import newest_valid
from semires_trainer.config import parse_job
from semires_trainer.errors import ConfigError, DivergedError
from semires_trainer.launch import run
from semires_trainer.orders import Attempt, ControlFolder, Orders
from semires_trainer.outcome import read_end
from semires_trainer.rank import main as rank_main
from semires_trainer.run import run_here
from semires_trainer.signals import StopFlag, stop_on_signals


@contextmanager
def started(document: dict[str, Any], folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The program, running; killed at the end if it still is."""
    job = folder / "job.yaml"
    job.write_text(json.dumps(document))
    process = subprocess.Popen(
        [sys.executable, "-m", "semires_trainer", "run", str(job), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for_training(process: subprocess.Popen[str]) -> list[str]:
    """Read its messages until the first epoch is evaluated."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "Epoch 1 of burn-in" in line:
            return lines
    raise AssertionError("".join(lines))


@pytest.mark.parametrize(
    ("number", "code", "options"),
    [
        pytest.param(signal.SIGINT, 130, (), id="ctrl-c"),
        pytest.param(signal.SIGTERM, 143, ("--nproc", "2"), id="sigterm-to-two-processes"),
    ],
)
def test_a_signal_leaves_a_usable_checkpoint(
    finished: Path, data: Path, tmp_path: Path, harness: ModuleType, number: int, code: int, options: tuple[str, ...]
) -> None:
    output = tmp_path / "out"
    document = harness.document_of(data, output, burnInEpochs=10_000)

    with started(document, tmp_path, *options) as process:
        wait_for_training(process)
        process.send_signal(number)
        _, messages = process.communicate(timeout=60)

    assert process.returncode == code, messages[-3000:]
    assert messages.splitlines()[-1].startswith("Stopped on request. Checkpoint of burn-in step")
    newest = newest_valid(output / "checkpoints")
    assert newest is not None
    assert json.loads((newest / "state.json").read_text())["step"] > harness.STEPS_PER_EPOCH


def test_a_rank_leaves_its_end_for_the_supervisor(data: Path, output: Path, harness: ModuleType) -> None:
    document = harness.changed(harness.document_of(data, output), dataset__annotations=str(data / "absent"))
    control = ControlFolder(output / ".run")
    control.clear()
    orders = Orders(
        job=document,
        places={},
        store=str(data / "store"),
        work=str(output),
        identity="x",
        stages=("train",),
        attempt=Attempt(job="tiny", number=1),
    )
    orders.write(control.orders)

    code = rank_main([str(control.orders)])

    end = read_end(control.failure(0))
    assert end is not None
    assert code == end.exit_code == 3
    assert end.reason == "DataInvalid"
    assert "absent" in end.message
    introduced = json.loads(control.rank(0).read_text())
    assert (introduced["rank"], introduced["pid"]) == (0, os.getpid())


@pytest.mark.parametrize("policy", ["Stop", "Skip", "RollBack"])
def test_a_run_that_diverges_ends_with_exit_code_4(
    finished: Path, data: Path, output: Path, harness: ModuleType, policy: str
) -> None:
    """A learning rate that makes the weights infinite in a few steps."""
    document = harness.document_of(data, output, learningRate="1000000", nanPolicy=policy, nanLimit=2)

    with pytest.raises(DivergedError, match="is not finite") as diverged:
        run_here(parse_job(document))

    assert diverged.value.exit_code == 4


@pytest.mark.parametrize(
    ("changes", "processes", "error", "message"),
    [
        pytest.param(
            {}, 3, ConfigError, r"burnInBatch: a global batch of 4 .* to 3 processes.*multiple of 3", id="batch"
        ),
        pytest.param({"training__microBatch": 1}, 1, ConfigError, r"microBatch: .* Use at least 2", id="micro-batch"),
        pytest.param(
            {"storage": {"endpoint": "lab"}},
            1,
            ConfigError,
            r"spec\.storage\.endpoint: the endpoint 'lab' is not known here; known: none\. .*--endpoint lab=https",
            id="endpoint",
        ),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    data: Path,
    output: Path,
    harness: ModuleType,
    changes: dict[str, Any],
    processes: int,
    error: type[Exception],
    message: str,
) -> None:
    document = harness.changed(harness.document_of(data, output), **changes)

    with pytest.raises(error, match=message):
        run(parse_job(document), nproc=processes)

    assert not output.exists()


def test_the_first_signal_sets_the_flag_and_the_second_is_left_to_whoever_was_there() -> None:
    before = signal.getsignal(signal.SIGINT)

    with stop_on_signals() as stop:
        assert not stop.is_set
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set
        assert stop.exit_code == 130
        assert signal.getsignal(signal.SIGINT) is before

    assert signal.getsignal(signal.SIGINT) is before


def test_a_rank_that_got_no_signal_ends_as_if_by_sigterm() -> None:
    assert StopFlag().exit_code == 143
    assert StopFlag(signal_number=signal.SIGINT).exit_code == 130
