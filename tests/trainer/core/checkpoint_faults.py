"""Saves a checkpoint again and again, each time in a process of its own whose system calls strace tampers with.

    python checkpoint_faults.py FOLDER

FOLDER/plan.json names the runs; each leaves FOLDER/<name>/checkpoints, the trace of its system calls and what became of
it. One process imports torch once and forks the others (before it has used autograd or made a thread).
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

import states

from semires_trainer.checkpoint import TrainingState
from semires_trainer.checkpoint_folders import Progress
from semires_trainer.checkpoint_writer import CheckpointWriter, Written

CALLS = (
    "write,pwrite64,writev,fsync,fdatasync,ftruncate,?rename,renameat,renameat2,"
    "?unlink,unlinkat,?rmdir,?mkdir,mkdirat,?open,openat"
)
WIDTH = 512
"""Of the network: its larger tensors are written by calls of their own."""
PR_SET_PTRACER = 0x59616D61


def first_state() -> TrainingState:
    """What checkpoint 1 holds."""
    return states.state_after(1, width=WIDTH, progress=Progress(stage="train", step=1))


def second_state(scenario: str) -> TrainingState:
    """What is saved: "next" as checkpoint 2, which pushes 1 out; "again" in place of 1, with more known."""
    progress = Progress(stage="train", step=2) if scenario == "next" else Progress(stage="train", step=1, oiou=3.0)
    return states.state_after(2, width=WIDTH, progress=progress)


def save_second(root: Path, scenario: str, link: socket.socket) -> None:
    """The life of a process that saves: ready, told to go on, saves, tells."""
    allow_tracing()
    state, told = second_state(scenario), list[Written]()
    writer = CheckpointWriter(root, keep_last=1, tell=told.append)
    link.send(b"ready")
    link.recv(1)
    writer.save(state, state.progress.step)
    writer.close()
    (written,) = told
    errors = {"error": written.error, "prune_error": written.prune_error}
    answer = {key: error and {"reason": error.reason, "text": str(error)} for key, error in errors.items()}
    link.send(json.dumps(answer).encode())


def allow_tracing() -> None:
    """Let a process that is no ancestor trace this one, where Yama asks for permission."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)


def run(folder: Path, scenario: str, tampering: list[str]) -> dict[str, Any]:
    """One process under strace; its wait status, and what it told if it lived."""
    states.save(folder / "checkpoints", first_state(), number=1)
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        code = 1
        try:
            save_second(folder / "checkpoints", scenario, theirs)
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    ours.recv(5)
    options = [word for each in tampering for word in ("-e", f"inject={each}")]
    command = ["strace", "-f", "-q", "-o", str(folder / "trace"), "-e", f"trace={CALLS}", *options, "-p", str(pid)]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_tracer(pid, strace)
    ours.send(b"!")
    answer = ours.recv(65536)
    _, status = os.waitpid(pid, 0)
    strace.communicate()
    return {"exit": os.waitstatus_to_exitcode(status), **json.loads(answer or "{}")}


def wait_for_tracer(pid: int, strace: subprocess.Popen[str]) -> None:
    status = Path(f"/proc/{pid}/status")
    while "TracerPid:\t0\n" in status.read_text():
        if strace.poll() is not None:
            raise SystemExit(strace.communicate()[1])
        time.sleep(0.001)


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    for each in json.loads((folder / "plan.json").read_text()):
        place = folder / each["name"]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "end.json").write_text(json.dumps(run(place, each["scenario"], each["tampering"])))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
