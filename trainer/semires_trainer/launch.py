"""`semires run`: from a manifest to a trained, evaluated model; in this process, or in several started by torchrun.

Torch is imported only where this process trains: the one that waits for torchrun stays small.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from semires_trainer import atomic
from semires_trainer.config import SemiRESJob, resolve
from semires_trainer.errors import InfrastructureError
from semires_trainer.inputs import local_path
from semires_trainer.outcome import clear_outcome, read_outcome
from semires_trainer.results import Results, read_results
from semires_trainer.schedule import check_batches
from semires_trainer.signals import EXIT_CODES, StopRequested, stop_on_signals

STAGES = ("propose", "train", "evaluate")
SHUTDOWN_SECONDS = 120
"""A rank that was asked to stop may take this long for its step and its checkpoint; torchrun's default is 30."""


def run(job: SemiRESJob, *, nproc: int = 1, stages: Sequence[str] = STAGES) -> Results | None:
    """Run `stages` of a job on `nproc` processes of this machine; returns the results if it evaluated.

    Raises SemiresError for what a user can mend (LaunchedRunFailed if one of several processes found it), and
    StopRequested after a requested stop.
    """
    resolved = resolve(job)
    output = local_path(resolved.output)
    check_batches(resolved.training, processes=nproc)
    if nproc > 1:
        launch(job, output, nproc=nproc, stages=stages)
    else:
        from semires_trainer.run import run_rank

        run_rank(resolved, stages=stages)
    return read_results(output / "results.json") if "evaluate" in stages else None


def launch(job: SemiRESJob, output: Path, *, nproc: int, stages: Sequence[str]) -> None:
    """Start `nproc` ranks with torchrun and wait; raises StopRequested or LaunchedRunFailed as a rank says."""
    output.mkdir(parents=True, exist_ok=True)
    clear_outcome(output)
    manifest = output / "manifest.json"
    # Only what was given: some checks ask whether a field was, as optimizedTextLayers of a small text encoder.
    atomic.write_text(manifest, job.model_dump_json(by_alias=True, exclude_unset=True) + "\n")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"),
        f"--shutdown-timeout={SHUTDOWN_SECONDS}",
        *("-m", "semires_trainer.rank", str(manifest), "--stages", ",".join(stages)),
    ]
    # In a session of its own a terminal's Ctrl-C reaches it once, through us, like every other signal.
    process = subprocess.Popen(command, start_new_session=True)
    with stop_on_signals(forward_to=process.pid):
        code = process.wait()
    if code == 0:
        return
    outcome = read_outcome(output)
    if outcome is None:
        raise InfrastructureError(
            f"a rank was lost: torchrun ended with exit code {code} and left no outcome",
            remedy="Look at the messages above; start again to go on from the last checkpoint",
        )
    if outcome.exit_code in EXIT_CODES.values():
        raise StopRequested(outcome.exit_code, outcome.message)
    raise LaunchedRunFailed(outcome.message, exit_code=outcome.exit_code)


class LaunchedRunFailed(Exception):
    """A run of several processes ended as one of them says."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
