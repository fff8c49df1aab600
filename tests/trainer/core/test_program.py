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
import yaml

from semires_trainer.checkpoint import newest_valid


@contextmanager
def started(document: dict[str, Any], folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The program, running; killed at the end if it still is."""
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(document))
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
    assert "Stopped on request. Checkpoint of burn-in step" in messages.splitlines()[-1]
    newest = newest_valid(output / "checkpoints")
    assert newest is not None
    assert json.loads((newest / "state.json").read_text())["step"] > harness.STEPS_PER_EPOCH
