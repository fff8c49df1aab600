"""One rank of a run: what torchrun starts, once per process.

    python -m semires_trainer.rank MANIFEST.json --stages propose,train,evaluate

Torch is imported inside `main`: processes that a rank spawns to segment pictures import this module first.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from semires_trainer.config import parse_job, resolve
from semires_trainer.errors import InfrastructureError, SemiresError
from semires_trainer.outcome import Outcome, write_outcome
from semires_trainer.signals import StopRequested
from semires_trainer.threads import share_cores

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; returns its exit code. An end that is not a success is left in the outcome file."""
    parser = argparse.ArgumentParser(prog="python -m semires_trainer.rank", description="One rank of a run.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--stages", default="propose,train,evaluate")
    options = parser.parse_args(arguments)
    outcome = run_to_outcome(options.manifest, stages=options.stages.split(","))
    if outcome is None:
        return 0
    if outcome.message:
        write_outcome(options.manifest.parent, outcome)
    return outcome.exit_code


def run_to_outcome(manifest: Path, *, stages: Sequence[str]) -> Outcome | None:
    """Run the stages; None after success. The message is empty where another rank knows better what happened."""
    share_cores()
    from semires_trainer.run import run_rank

    is_main = os.environ.get("RANK", "0") == "0"
    try:
        run_rank(resolve(parse_job(json.loads(manifest.read_text(encoding="utf-8")))), stages=stages)
    except StopRequested as stop:
        return Outcome(message=stop.saved if is_main else "", exit_code=stop.exit_code)
    except SemiresError as error:
        return Outcome(message=str(error), exit_code=error.exit_code)
    except Exception as error:
        if is_lost_peer(error):
            return Outcome(message="", exit_code=InfrastructureError.exit_code)
        logger.exception("This is a bug in semires. Please report it.")
        return Outcome(message=f"{type(error).__name__}: {error}", exit_code=SemiresError.exit_code)
    return None


def is_lost_peer(error: Exception) -> bool:
    """Whether an error only says that another rank is gone: gloo raises plain RuntimeErrors that name its sources."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


if __name__ == "__main__":
    sys.exit(main())
