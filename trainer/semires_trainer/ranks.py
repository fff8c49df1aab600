"""The processes that train on this node: started, asked to stop, asked for their stacks, ended for good."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from semires_trainer.orders import ControlFolder, is_one_node
from semires_trainer.tether import PARENT

SHUTDOWN_SECONDS = 120
"""A rank that was asked to stop may take this long for its step and its checkpoint; torchrun's default is 30."""
STACKS_SECONDS = 5.0
LONGEST_STACKS = 20_000
MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
Line = Callable[[str], None]


def command_of(orders: Path, processes: str, environment: Mapping[str, str]) -> list[str]:
    """How the ranks of this node are started: one directly, several by torchrun.

    On several nodes torchrun takes its settings from the variables PET_* that a PyTorchJob gives its pods.
    """
    rank = ["semires_trainer.rank", str(orders)]
    tethered = [sys.executable, "-m", "semires_trainer.tether"]
    if is_one_node(environment) and processes == "1":
        return [*tethered, *rank]
    where = ["--standalone", "--nnodes=1", f"--nproc-per-node={processes}"] if is_one_node(environment) else []
    return [*tethered, "torch.distributed.run", *where, f"--shutdown-timeout={SHUTDOWN_SECONDS}", "-m", *rank]


@dataclass(frozen=True, kw_only=True, slots=True)
class RankState:
    """What /proc says of a rank."""

    rank: int
    pid: int
    state: str
    """R running, S sleeping, D waiting for a device, T stopped, Z dead; empty: there is no such process."""

    @property
    def is_alive(self) -> bool:
        """Whether it can still do something."""
        return self.state not in {"", "Z", "X"}


class Ranks:
    """The ranks of this node, as one process that starts them."""

    def __init__(
        self, control: ControlFolder, processes: str, *, environment: Mapping[str, str], on_line: Line | None
    ) -> None:
        """Start them. Each line they write outside our log goes to `on_line`; None lets them write to our terminal."""
        self._control = control
        self._oom_kills = oom_kills()
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        command = command_of(control.orders, processes, environment)
        output = subprocess.PIPE if on_line else None
        # In a session of its own a terminal's Ctrl-C reaches it once, through us, like every other signal.
        self._process = subprocess.Popen(
            command,
            env={**environment, PARENT: str(os.getpid()), **(alone if "torch.distributed.run" not in command else {})},
            stdout=output,
            stderr=subprocess.STDOUT if on_line else None,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(on_line,), name="output of the ranks", daemon=True)
        self._reader.start()

    def _read(self, on_line: Line | None) -> None:
        if on_line is None or self._process.stdout is None:
            return
        for line in self._process.stdout:
            on_line(line.decode("utf-8", "replace").rstrip("\n"))

    def poll(self) -> int | None:
        """The exit code, None while they run."""
        return self._process.poll()

    def ask_to_stop(self, number: int) -> None:
        """Pass a signal on: torchrun gives it to each rank, which stops at its next step."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def states(self) -> list[RankState]:
        """All ranks that have begun, by number."""
        found = []
        for path in sorted(self._control.path.glob("rank-*.json")):
            with contextlib.suppress(OSError, ValueError, KeyError):
                record = json.loads(path.read_text(encoding="utf-8"))
                found.append(
                    RankState(rank=record["rank"], pid=record["pid"], state=_state_of(record["pid"], record["started"]))
                )
        return sorted(found, key=lambda state: state.rank)

    def stacks(self) -> dict[int, str]:
        """The stacks of all threads of every rank that can still write them; a stopped one is woken up for it."""
        alive = [state for state in self.states() if state.is_alive]
        for state in alive:
            for number in (signal.SIGUSR1, signal.SIGCONT):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(state.pid, number)
        deadline = time.monotonic() + STACKS_SECONDS
        files = {state.rank: self._control.stacks(state.rank) for state in alive}
        while time.monotonic() < deadline and not all(_ends_a_stack(path) for path in files.values()):
            time.sleep(0.05)
        return {
            rank: path.read_text(encoding="utf-8", errors="replace")[:LONGEST_STACKS]
            for rank, path in files.items()
            if path.is_file()
        }

    def kill(self) -> None:
        """End all of them now; returns when they are gone."""
        alive = [state.pid for state in self.states() if state.is_alive]
        self._process.kill()  # does nothing once its end was noticed: its number may be another's by now
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def finish(self) -> None:
        """Read what they wrote last; processes that they left behind may hold the pipe open."""
        self._reader.join(timeout=5.0)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()

    def killed_for_memory(self) -> bool:
        """Whether the kernel has killed a process of this container for memory since the start."""
        return oom_kills() > self._oom_kills


def _state_of(pid: int, started: int) -> str:
    found = process_state(pid)
    return found[0] if found is not None and found[1] == started else ""


def process_state(pid: int) -> tuple[str, int] | None:
    """State and time of start (clock ticks since the machine's) of a process; None if there is none.

    The time tells a process from a later one with the same number.
    """
    try:
        # proc(5): fields follow the command's name, which is in parentheses and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def _ends_a_stack(path: Path) -> bool:
    """The main thread's stack comes last, and its last frame is the module that torchrun started."""
    return path.is_file() and "<module>" in path.read_text(encoding="utf-8", errors="replace")


def oom_kills() -> int:
    """Processes of this cgroup that the kernel has killed for memory; 0 where it does not tell."""
    try:
        lines = MEMORY_EVENTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
