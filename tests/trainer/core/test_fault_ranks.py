"""Faults on one of several processes: all decide the same, and nobody trains something else."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def run_script(name: str, *arguments: object, torchrun: bool = False) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if torchrun else ["-W", "error"]
    script = Path(__file__).with_name(name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *launcher, str(script), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="session")
def found(finished: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Any]:
    """What fault_ranks.py wrote for each (processes, rank); `finished` has made the proposals."""
    results = tmp_path_factory.mktemp("fault-ranks")
    ended = run_script("fault_ranks.py", data, results)
    assert ended.returncode == 0, ended.stderr[-3000:]
    files = {tuple(map(int, path.stem.split("-"))): path for path in results.glob("*-*.json")}
    return {(size, rank): json.loads(path.read_text()) for (size, rank), path in files.items()}


def test_processes_together_train_what_one_does(found: dict[tuple[int, int], Any], harness: ModuleType) -> None:
    """Step by step the same refs, replacements too, whoever met the bad image first."""
    whole = found[1, 0]["bad_images"]["refs"]
    first, second = (found[2, rank]["bad_images"]["refs"] for rank in (0, 1))

    assert len(whole) == 2 * harness.STEPS_PER_EPOCH
    assert [mine + others for mine, others in zip(first, second, strict=True)] == whole


def test_a_bad_image_is_told_once_by_the_first_rank(found: dict[tuple[int, int], Any]) -> None:
    first, second = (found[2, rank]["bad_images"] for rank in (0, 1))

    (text,) = first["told"]
    assert text.startswith(f"Bad image 1 of 10 allowed, left out of training: image {first['name']} ")
    assert second["told"] == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_loss_that_is_not_finite_on_one_process_stops_all(found: dict[tuple[int, int], Any], rank: int) -> None:
    end = found[2, rank]["Stop"]

    assert end["exit_code"] == 4
    assert "the loss of train step 4 is not finite" in end["message"]


@pytest.mark.parametrize("policy", ["Skip", "RollBack"])
@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_leave_the_same_step_out(
    found: dict[tuple[int, int], Any], harness: ModuleType, policy: str, rank: int
) -> None:
    end = found[2, rank][policy]

    finite = [loss for loss in end["losses"] if math.isfinite(loss)]
    repeated = 1 if policy == "RollBack" else 0
    assert end["skipped"] == [4]
    assert len(finite) == 2 * harness.STEPS_PER_EPOCH - 1 + repeated
    assert end["losses"] == pytest.approx(found[2, 1 - rank][policy]["losses"], nan_ok=True, rel=0)


def test_rolling_back_trains_what_skipping_does_to_the_bit(found: dict[tuple[int, int], Any]) -> None:
    """The steps since the checkpoint are repeated exactly, and the bad one is left out in both."""
    said = found[2, 0]["RollBack"]["messages"]

    assert any("Going on from" in text for text in said)
    assert found[2, 0]["differing"] == []


@pytest.fixture(scope="session")
def exhausted(finished: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[int, Any]]:
    """The exit code of a real torchrun whose second rank runs out of GPU memory, and how each rank ended."""
    results = tmp_path_factory.mktemp("exhausted")
    ended = run_script("exhausted_ranks.py", data, results, torchrun=True)
    return ended.returncode, {
        int(path.stem): json.loads(path.read_text()) for path in (results / "ends").glob("*.json")
    }


def test_exhausted_gpu_memory_on_any_rank_is_told_with_the_micro_batch_that_fits(
    exhausted: tuple[int, dict[int, Any]],
) -> None:
    code, ends = exhausted

    assert code == 1
    assert ends[1]["exit_code"] == 6
    assert (ends[1]["micro_batch_in_use"], ends[1]["micro_batch"]) == (2, None)
    assert "the GPU of rank 1 (cpu) has too little memory for burn-in steps with 2 images" in ends[1]["message"]


def test_the_other_ranks_only_see_a_lost_peer(exhausted: tuple[int, dict[int, Any]]) -> None:
    """They say nothing of their own, whichever of them torchrun has left alive so long."""
    _, ends = exhausted

    assert ends.get(0, {}).get("exit_code", 150) == 150
