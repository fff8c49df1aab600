"""`semires run` as a program that is interrupted: start it, wait for a moment, kill a rank, compare what is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semires_trainer.atomic import file_sha256
from semires_trainer.checkpoint_folders import newest_valid, number_of
from semires_trainer.orders import ControlFolder
from semires_trainer.progress_file import ProgressReport, read_progress
from semires_trainer.ranks import process_state

Moment = Callable[["Program"], bool]
LONGEST_SECONDS = 240.0


@dataclass(frozen=True, kw_only=True)
class Program:
    """A run under way, or ended."""

    process: subprocess.Popen[bytes]
    work: Path
    """The work folder: the output, where that is a folder."""
    errors: Path
    """What it writes to stderr."""

    @property
    def control(self) -> ControlFolder:
        """Where supervisor and ranks leave each other word."""
        return ControlFolder(self.work / ".run")

    @property
    def report(self) -> ProgressReport | None:
        """Where the run says it is."""
        return read_progress(self.control.progress).report

    def text(self) -> str:
        """All it has written to stderr."""
        return self.errors.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, moment: Moment) -> bool:
        """Wait for a moment; False if the program ended before."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while not moment(self):
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.text()[-4000:]
            time.sleep(0.002)
        return True

    def rank_pid(self, rank: int) -> int:
        """Process id of a rank."""
        return int(json.loads(self.control.rank(rank).read_text())["pid"])

    def kill_rank(self, rank: int) -> bool:
        """SIGKILL one rank; False if it has ended already."""
        try:
            os.kill(self.rank_pid(rank), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def send(self, target: str, number: int) -> None:
        """A signal to "supervisor", "torchrun" (what the supervisor started), "rank" or "rank-1"."""
        if target == "supervisor":
            self.process.send_signal(number)
        elif target == "torchrun":
            os.kill(parent_of(self.rank_pid(0)), number)
        else:
            os.kill(self.rank_pid(int(target.partition("-")[2] or "0")), number)

    def end(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(timeout=LONGEST_SECONDS)

    def log(self) -> list[dict[str, Any]]:
        """The records of the attempt's log file."""
        return [json.loads(line) for line in self.control.log.read_text().splitlines()]


@contextmanager
def started(
    document: Mapping[str, Any],
    folder: Path,
    *options: str,
    work: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """The program, running; killed at the end if it still is. Nothing that ran before is mistaken for it."""
    folder.mkdir(parents=True, exist_ok=True)
    job, errors = folder / "job.yaml", folder / "stderr.txt"
    job.write_text(json.dumps(document))
    work = work or Path(document["spec"]["output"])
    for name in ("progress.json", "rank-0.json", "rank-1.json", "rank-2.json", "rank-3.json"):
        (work / ".run" / name).unlink(missing_ok=True)
    with errors.open("wb") as target:
        process = subprocess.Popen(
            [sys.executable, "-m", "semires_trainer", "run", str(job), *options],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                **(environment or {}),
            },
            stdout=subprocess.DEVNULL,
            stderr=target,
        )
    try:
        yield Program(process=process, work=work, errors=errors)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def run_to_end(document: Mapping[str, Any], folder: Path, *options: str, **keywords: Any) -> Program:
    """Run without an interruption; AssertionError with its messages if it fails."""
    with started(document, folder, *options, **keywords) as program:
        assert program.end() == 0, program.text()[-4000:]
        return program


def parent_of(pid: int) -> int:
    """The parent of a process, from /proc."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is not a zombie."""
    found = process_state(pid)
    return found is not None and found[0] not in "ZX"


def saved_steps(work: Path) -> int:
    """Optimizer steps in the newest valid checkpoint; 0 if there is none."""
    newest = newest_valid(work / "checkpoints")
    return number_of(newest) if newest is not None else 0


def port_of(program: Program) -> int:
    """Where it serves its progress."""
    found = re.search(r"served at port (\d+)", program.text())
    assert found is not None, program.text()
    return int(found[1])


def get(program: Program, name: str) -> dict[str, Any]:
    """A JSON document that the supervisor serves."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port_of(program)}/{name}", timeout=5) as answer:
        document: dict[str, Any] = json.loads(answer.read())
    return document


def post(program: Program, name: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a POST without a body."""
    request = urllib.request.Request(f"http://127.0.0.1:{port_of(program)}/{name}", method="POST")
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.status, json.loads(answer.read())


def has_ranks(program: Program, count: int) -> bool:
    """All ranks have begun."""
    return all(program.control.rank(rank).is_file() for rank in range(count))


def step_of(program: Program) -> int:
    """Optimizer steps of the run that are done."""
    report = program.report
    return report.step if report is not None and report.started else -1


def in_stage(name: str) -> Moment:
    """A moment inside a stage: proposals, burn-in, train, evaluate."""
    return lambda program: program.report is not None and program.report.stage == name


def is_saving(program: Program) -> bool:
    """A checkpoint is being written."""
    return any((program.work / "checkpoints").glob(".step-*"))


def fingerprint(work: Path) -> dict[str, Any]:
    """What must not depend on interruptions: tensors, figures and logged values, to the bit."""
    newest = newest_valid(work / "checkpoints")
    assert newest is not None
    files = [*newest.iterdir(), *(work / "burn-in").iterdir(), *(work / "model").iterdir()]
    results = json.loads((work / "results.json").read_text())
    records = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    return {
        **{f"{path.parent.name}/{path.name}": file_sha256(path) for path in files if path.suffix == ".safetensors"},
        "state": {key: value for key, value in json.loads((newest / "state.json").read_text()).items()},
        "scores": results["scores"],
        "metrics": [values for values in map(logged_values, records) if values.keys() - {"step", "stage"}],
    }


def logged_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of metrics.jsonl without what the clock and the disk decide."""
    return {key: value for key, value in record.items() if key != "time" and not key.startswith("checkpoint/")}
