"""A rank of a run whose second rank runs out of GPU memory. Started by torchrun in test_fault_ranks.py:

python exhausted_ranks.py DATA RESULTS
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

import harness

from semires_trainer.errors import GpuMemoryError
from semires_trainer.steps import BurnInStep

sound = BurnInStep.compute_gradients


def exhaust(self: BurnInStep, micro_batches: Sequence[Any], *, step: int) -> dict[str, torch.Tensor]:
    """As torch's allocator fails, in the second step of the second rank; the first one waits for its gradients."""
    if step == 1 and os.environ["RANK"] == "1":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of")
    return sound(self, micro_batches, step=step)


def main(data: Path, results: Path) -> int:
    torch.set_num_threads(1)
    BurnInStep.compute_gradients = exhaust  # type: ignore[method-assign]
    end: dict[str, Any] = {"exit_code": 0}
    try:
        harness.train(harness.document_of(data, results / "out"))
    except GpuMemoryError as error:
        numbers = {"micro_batch": error.micro_batch, "micro_batch_in_use": error.micro_batch_in_use}
        end = {"exit_code": error.exit_code, "message": str(error), **numbers}
    except RuntimeError as error:
        end = {"exit_code": 150, "message": str(error)}
    (results / "ends").mkdir(exist_ok=True)
    (results / "ends" / f"{os.environ['RANK']}.json").write_text(json.dumps(end))
    return int(end["exit_code"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
