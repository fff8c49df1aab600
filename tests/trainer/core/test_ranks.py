"""The same run on 1, 2 and 4 processes: same losses, same figures, same decisions on every rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

BURN_IN_TOLERANCE = 2e-6
"""Relative: float32 sums in another order."""
MUTUAL_TOLERANCE = 1e-5
"""Relative: a pseudo-label's pixel at the threshold may fall on the other side of it."""

RANKS = [pytest.param(2, 0, id="2-processes"), pytest.param(4, 0, id="4-processes"), pytest.param(4, 3, id="rank-3")]


@pytest.fixture(scope="session")
def found(finished: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Any]:
    """What ranks.py wrote for each (processes, rank); `finished` has made the proposals."""
    results = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("ranks.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", str(script), str(data), str(results)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    files = {tuple(map(int, path.stem.split("-"))): path for path in results.glob("*.json")}
    return {(size, rank): json.loads(path.read_text()) for (size, rank), path in files.items()}


@pytest.mark.parametrize("mode", ["flat", "ddp"])
@pytest.mark.parametrize(("size", "rank"), RANKS)
def test_losses_do_not_depend_on_the_number_of_processes(
    found: dict[tuple[int, int], Any], harness: ModuleType, mode: str, size: int, rank: int
) -> None:
    wanted, losses = found[1, 0][mode]["losses"], found[size, rank][mode]["losses"]

    assert len(losses["burn-in"]) == len(losses["train"]) == harness.STEPS_PER_EPOCH
    assert losses["burn-in"] == pytest.approx(wanted["burn-in"], rel=BURN_IN_TOLERANCE)
    assert losses["train"] == pytest.approx(wanted["train"], rel=MUTUAL_TOLERANCE)


@pytest.mark.parametrize(("size", "rank"), RANKS)
def test_figures_are_the_same_to_the_last_digit(found: dict[tuple[int, int], Any], size: int, rank: int) -> None:
    figures = found[size, rank]["figures"]

    assert figures == found[1, 0]["figures"]
    assert "overall_iou=0.0," not in figures["square"]
    assert figures["training"] is True


def test_all_ranks_run_out_of_patience_at_the_same_step(found: dict[tuple[int, int], Any]) -> None:
    ends = [found[4, rank]["patience"] for rank in range(4)]

    assert ends == [found[1, 0]["patience"]] * 4
    assert ends[0]["steps"] < ends[0]["planned"]


def test_all_ranks_stop_when_one_is_asked_to_and_go_on_exactly(found: dict[tuple[int, int], Any]) -> None:
    """With dropout and drop-path; DDP would add in another order after a resume."""
    ends = [found[4, rank]["stop"] for rank in range(4)]

    assert ends == [found[1, 0]["stop"]] * 4
    assert ends[0]["exit_code"] == 143
    assert "burn-in step 2" in ends[0]["message"]
    assert ends[0]["differing"] == []


def whole_batch_norm(dtype: torch.dtype) -> dict[str, Any]:
    """torch's batch norm on the whole batch, twice, as in ranks.py."""
    torch.manual_seed(0)
    x, slope = torch.randn(8, 5, 3, 4).to(dtype) * 3 + 7, torch.randn(8, 5, 3, 4).to(dtype)
    norm = nn.BatchNorm2d(5).to(torch.float64 if dtype == torch.float64 else torch.float32)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    for _ in range(2):
        batch = x.clone().requires_grad_()
        output = norm(batch)
        (output * slope).sum().backward()
    tensors = {
        "output": output,
        "x_grad": batch.grad,
        "weight_grad": norm.weight.grad,
        "bias_grad": norm.bias.grad,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
        "evaluated": norm.eval()(x),
    }
    return {name: tensor.detach().double().flatten().tolist() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(torch.float64, 1e-12, id="float64"), pytest.param(torch.bfloat16, 1e-5, id="bf16-autocast")],
)
@pytest.mark.parametrize(("size", "rank"), RANKS)
def test_batch_norm_is_that_of_the_whole_batch(
    found: dict[tuple[int, int], Any], size: int, rank: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Forward, backward, running statistics and evaluation."""
    got = found[size, rank][f"batch_norm_{dtype}".replace("torch.", "")]

    assert (got["type"], got["dtype"], got["num_batches_tracked"]) == ("AllReduceBatchNorm2d", str(dtype), 2)
    for name, values in whole_batch_norm(dtype).items():
        assert got[name] == pytest.approx(values, rel=tolerance, abs=tolerance), name
