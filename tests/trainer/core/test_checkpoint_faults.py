"""A process that saves is killed, or refused by the disk, at each of its system calls: there is always a checkpoint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.checkpoint import load_checkpoint
from semires_trainer.checkpoint_folders import Progress, checkpoints_of, fault_of, newest_valid, read_progress
from semires_trainer.checkpoint_writer import CheckpointWriter

SCRIPT = Path(__file__).with_name("checkpoint_faults.py")
SCENARIOS = ("next", "again")
SAMPLE = 7
"""Kills of each scenario in the quick test, spread over the save."""

Ends = dict[str, dict[str, Any]]
Tamper = Callable[[dict[str, tuple[str, list[str]]]], Ends]
"""Saves once for each name, in its scenario and with its injections, and tells what became of it."""


@pytest.fixture(scope="module")
def faults(load_module: Callable[[Path], ModuleType], states: ModuleType) -> ModuleType:
    sys.modules.setdefault("states", states)
    return load_module(SCRIPT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def tamper(folder: Path) -> Tamper:
    """Save once for each name, under strace with these injections; what became of it by name."""
    if shutil.which("strace") is None:
        pytest.fail("strace is needed: install the package strace (apt-get install strace)")

    def run(runs: dict[str, tuple[str, list[str]]]) -> Ends:
        plan = [{"name": name, "scenario": runs[name][0], "tampering": runs[name][1]} for name in runs]
        (folder / "plan.json").write_text(json.dumps(plan))
        environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-W", "error", str(SCRIPT), str(folder)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
        assert ended.returncode == 0, ended.stderr[-3000:]
        return {name: json.loads((folder / name / "end.json").read_text()) for name in runs}

    return run


@pytest.fixture(scope="module")
def points(tamper: Tamper, folder: Path) -> dict[str, list[tuple[str, int]]]:
    """(system call, which of them) of each call that changes the disk, by scenario, from an undisturbed save."""
    ends = tamper({name: (name, []) for name in SCENARIOS})
    assert ends == {name: {"exit": 0, "error": None, "prune_error": None} for name in SCENARIOS}
    return {name: changing_calls((folder / name / "trace").read_text()) for name in SCENARIOS}


def changing_calls(trace: str) -> list[tuple[str, int]]:
    """Calls of the thread that writes: strace counts for each thread and each system call."""
    calls = re.findall(r"^(\d+) +(\w+)\((.*)", trace, re.MULTILINE)
    (writer,) = {thread for thread, call, _ in calls if call == "fsync"}
    seen: Counter[str] = Counter()
    found = []
    for thread, call, arguments in calls:
        seen[call] += thread == writer
        if thread == writer and (call not in ("open", "openat") or "O_CREAT" in arguments):
            found.append((call, seen[call]))
    return found


def killed_at(points: list[tuple[str, int]], scenario: str) -> dict[str, tuple[str, list[str]]]:
    return {f"{scenario}-{call}-{n}": (scenario, [f"{call}:signal=KILL:when={n}"]) for call, n in points}


def assert_recoverable(root: Path, scenario: str, faults: ModuleType, states: ModuleType) -> None:
    """The newest valid checkpoint is the first or the second state; saving again leaves the second and nothing else."""
    newest = newest_valid(root)
    assert newest is not None
    first, second = faults.first_state(), faults.second_state(scenario)
    found = faults.states.state_after(0, seed=1, width=faults.WIDTH, progress=Progress(stage="train"))
    load_checkpoint(newest, found)
    assert [] in (states.difference(found, first), states.difference(found, second))

    writer = CheckpointWriter(root, keep_last=1, tell=lambda written: None)
    writer.save(second, second.progress.step)
    writer.close()
    (left,) = root.iterdir()
    assert left.name == f"step-{second.progress.step:08d}"
    assert fault_of(left) is None
    assert read_progress(left, identity="one") == second.progress


RENAMES = "?rename,renameat,renameat2"
FULL = ("DiskFull", "no space left")
BROKEN = ("Infrastructure", "Input/output error")
REFUSALS = {
    "full-from-the-start": ("write:error=ENOSPC:when=1+", *FULL),
    "full-in-the-middle": ("write:error=ENOSPC:when=9+", *FULL),
    "full-at-the-sync": ("fsync:error=ENOSPC:when=1", *FULL),
    "quota": ("write:error=EDQUOT:when=4", *FULL),
    "broken-disk": ("write:error=EIO:when=5", *BROKEN),
    "broken-disk-at-the-sync": ("fsync:error=EIO:when=7", *BROKEN),
    "read-only": ("?mkdir,mkdirat:error=EROFS", "Infrastructure", "Read-only file system"),
    "first-rename": (f"{RENAMES}:error=EIO:when=1", *BROKEN),
    "all-renames": (f"{RENAMES}:error=EIO:when=1+", *BROKEN),
}
"""What strace does to the calls; reason and words of what is told."""
UNDELETABLE = {"undeletable": ("next", ["unlinkat:error=EIO"])}


@pytest.fixture(scope="module")
def quick(tamper: Tamper, points: dict[str, list[tuple[str, int]]]) -> Ends:
    """All but the kills at each call, in one go: importing torch takes longer than all of them."""
    runs = {f"{scenario}-{name}": (scenario, [how]) for scenario in SCENARIOS for name, (how, _, _) in REFUSALS.items()}
    for scenario in SCENARIOS:
        runs |= killed_at(points[scenario][:: -(-len(points[scenario]) // SAMPLE)], scenario)
    return tamper(runs | UNDELETABLE)


def assert_kills_are_survived(ends: Ends, folder: Path, faults: ModuleType, states: ModuleType) -> None:
    for name, end in ends.items():
        assert end == {"exit": -9}, name
        assert_recoverable(folder / name / "checkpoints", name.split("-")[0], faults, states)


def test_a_kill_at_some_system_calls_leaves_a_checkpoint(
    quick: Ends, points: dict[str, list[tuple[str, int]]], folder: Path, faults: ModuleType, states: ModuleType
) -> None:
    names = set().union(*(killed_at(points[scenario], scenario) for scenario in SCENARIOS))
    ends = {name: end for name, end in quick.items() if name in names}

    assert len(ends) >= 2 * SAMPLE - 2
    assert_kills_are_survived(ends, folder, faults, states)


@pytest.mark.long
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_at_each_system_call_leaves_a_checkpoint(
    tamper: Tamper,
    points: dict[str, list[tuple[str, int]]],
    folder: Path,
    faults: ModuleType,
    states: ModuleType,
    scenario: str,
) -> None:
    ends = tamper(killed_at(points[scenario], scenario))

    assert len(ends) > 40
    assert_kills_are_survived(ends, folder, faults, states)


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_disk_that_refuses_is_told_and_the_first_checkpoint_stays(
    quick: Ends, folder: Path, faults: ModuleType, states: ModuleType, scenario: str, refusal: str
) -> None:
    _, reason, text = REFUSALS[refusal]
    end, root = quick[f"{scenario}-{refusal}"], folder / f"{scenario}-{refusal}" / "checkpoints"

    assert (end["exit"], end["error"]["reason"]) == (0, reason)
    assert text in end["error"]["text"]
    assert "spec.training.checkpoint.keepLast" in end["error"]["text"]
    assert [fault_of(path) for path in checkpoints_of(root)] == [None]
    assert_recoverable(root, scenario, faults, states)


def test_old_checkpoints_that_cannot_be_deleted_are_told_and_do_not_undo_the_save(
    quick: Ends, folder: Path, faults: ModuleType, states: ModuleType
) -> None:
    end, root = quick["undeletable"], folder / "undeletable" / "checkpoints"

    assert (end["exit"], end["error"]) == (0, None)
    assert "Input/output error" in end["prune_error"]["text"]
    assert newest_valid(root) == root / "step-00000002"
    assert_recoverable(root, "next", faults, states)
