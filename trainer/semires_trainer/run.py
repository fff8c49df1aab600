"""`semires run`: from a manifest to a trained, evaluated model; one process, or several started by torchrun.

python -m semires_trainer.run MANIFEST.json --stages propose,train,evaluate      what torchrun starts, once per rank
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from semires_trainer import atomic
from semires_trainer.config import Resolved, ResolvedTraining, SemiRESJob, parse_job, resolve
from semires_trainer.distributed import World, joined_world
from semires_trainer.errors import ConfigError, InfrastructureError, SemiresError
from semires_trainer.identity import claim_output
from semires_trainer.loaders import Loaders
from semires_trainer.materials import load_materials, propose
from semires_trainer.results import Results, read_results
from semires_trainer.showcase import draw_pictures
from semires_trainer.signals import StopRequested, stop_on_signals
from semires_trainer.stages import EVALUATION_BATCH, Run, burn_in, evaluate_all, mutual_learning, progress_of
from semires_trainer.steps import Compute
from semires_trainer.telemetry import Phase, Reporter, null_reporter, open_reporter

logger = logging.getLogger(__name__)

STAGES = ("propose", "train", "evaluate")
OUTCOME = "outcome.json"
"""Written by rank 0 of several processes: how the run ended, because torchrun turns every failure into exit code 1."""


def run(job: SemiRESJob, *, nproc: int = 1, stages: Sequence[str] = STAGES) -> Results | None:
    """Run `stages` of a job on `nproc` processes of this machine; returns the results if it evaluated.

    Raises SemiresError for what a user can mend and StopRequested after a requested stop.
    """
    resolved = resolve(job)
    output = local_output(resolved)
    if nproc > 1:
        launch(job, output, nproc=nproc, stages=stages)
    else:
        run_rank(resolved, stages=stages)
    return read_results(output / "results.json") if "evaluate" in stages else None


def local_output(resolved: Resolved) -> Path:
    """The output folder; ConfigError for a storage service, which this version cannot write to."""
    if "://" in resolved.output:
        raise ConfigError(
            f"results can only be written to a local folder, got {resolved.output}",
            field="spec.output",
            remedy="Give a path, for example runs/my-job",
        )
    return Path(resolved.output)


def run_rank(resolved: Resolved, *, stages: Sequence[str]) -> None:
    """What each process does: load, then each stage in order."""
    training = resolved.training
    with (
        joined_world(device=training.device, deterministic=training.deterministic) as world,
        stop_on_signals() as stop,
    ):
        identity = str(world.broadcast(claim_output(Path(resolved.output), resolved) if world.is_main else None))
        compute = Compute(world=world, bf16=uses_bf16(training, world), channels_last=training.channels_last)
        workers = loader_workers(training, world)
        loaders = Loaders(resolved=resolved, materials=load_materials(resolved), world=world, workers=workers)
        unreported = Run(
            resolved=resolved,
            identity=identity,
            loaders=loaders,
            compute=compute,
            reporter=null_reporter(),
            stop=stop,
        )
        with closing(report_of(unreported, stages)) as reporter:
            run_stages(replace(unreported, reporter=reporter), stages)


def run_stages(this: Run, stages: Sequence[str]) -> None:
    """Each stage in its order; what is done already is skipped by the stages themselves."""
    cache = None
    if "propose" in stages:
        cache = propose(this.resolved, this.loaders.materials, this.world, this.reporter)
    if "train" in stages:
        burn_in(this)
        if cache is None:
            cache = propose(this.resolved, this.loaders.materials, this.world, this.reporter)
        mutual_learning(this, cache)
    if "evaluate" in stages:
        evaluate_all(this)
        if this.world.is_main:
            draw_pictures(this)
        this.world.barrier()


def report_of(this: Run, stages: Sequence[str]) -> Reporter:
    """The reporter of this process, which knows how much work lies ahead and where the run goes on."""
    progress = progress_of(this)
    resume_step = this.first_step(progress.stage) + progress.step
    return open_reporter(
        this.output,
        job=this.resolved.name,
        rank=this.world.rank,
        phases=phases_of(this, stages),
        resume_step=resume_step,
    )


def phases_of(this: Run, stages: Sequence[str]) -> list[Phase]:
    """The work ahead in the reporter's units, for the ETA of the whole run."""
    lengths, splits = this.lengths, this.resolved.dataset.evaluate
    batches = {split: -(-len(this.loaders.evaluation(split)) // EVALUATION_BATCH) for split in splits}
    epochs = sum(length.epochs for length in lengths.values()) if "train" in stages else 0
    evaluations = epochs * batches[splits[0]] + (2 * sum(batches.values()) if "evaluate" in stages else 0)
    return [
        *(Phase(name=stage, units=length.total_steps) for stage, length in lengths.items() if "train" in stages),
        Phase(name="evaluate", units=evaluations // this.world.size, seconds_per_unit=0.5),
    ]


def uses_bf16(training: ResolvedTraining, world: World) -> bool:
    """`precision: Auto` is bf16 on GPUs that have it, fp32 elsewhere."""
    if training.precision == "Auto":
        return world.device.type == "cuda" and torch.cuda.is_bf16_supported()
    return training.precision == "BF16"


def loader_workers(training: ResolvedTraining, world: World) -> int:
    """Loader processes of each rank: as asked; else none on a CPU, which is busy, and up to 8 beside a GPU."""
    if training.workers is not None:
        return training.workers
    if world.device.type == "cpu":
        return 0
    per_rank = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, per_rank - 1))


def launch(job: SemiRESJob, output: Path, *, nproc: int, stages: Sequence[str]) -> None:
    """Start `nproc` ranks with torchrun and wait; raises what rank 0 says went wrong, by its exit code."""
    output.mkdir(parents=True, exist_ok=True)
    (output / OUTCOME).unlink(missing_ok=True)
    manifest = output / "manifest.json"
    atomic.write_text(manifest, job.model_dump_json(by_alias=True, exclude_none=True) + "\n")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"),
        *("-m", "semires_trainer.run", str(manifest), "--stages", ",".join(stages)),
    ]
    process = subprocess.Popen(command)
    with stop_on_signals(forward_to=process.pid):
        code = process.wait()
    if code == 0:
        return
    outcome = read_outcome(output / OUTCOME)
    if outcome is None:
        raise InfrastructureError(
            f"a rank was lost: torchrun ended with exit code {code} and left no outcome",
            remedy="Look at the messages above; start again to go on from the last checkpoint",
        )
    raise LaunchedRunFailed(outcome["message"], exit_code=outcome["exitCode"])


class LaunchedRunFailed(Exception):
    """A run of several processes ended with an error that rank 0 already reported."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def read_outcome(path: Path) -> dict[str, Any] | None:
    """What rank 0 wrote at its end; None if it could not."""
    if not path.is_file():
        return None
    outcome: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of one rank; rank 0 leaves its outcome for the process that called torchrun."""
    parser = argparse.ArgumentParser(prog="python -m semires_trainer.run", description="One rank of a run.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--stages", default=",".join(STAGES))
    options = parser.parse_args(arguments)
    resolved = resolve(parse_job(json.loads(options.manifest.read_text(encoding="utf-8"))))
    try:
        run_rank(resolved, stages=options.stages.split(","))
    except (SemiresError, StopRequested) as error:
        logger.error("%s", error)
        if os.environ.get("RANK", "0") == "0" or isinstance(error, SemiresError):
            atomic.write_json(Path(resolved.output) / OUTCOME, {"message": str(error), "exitCode": error.exit_code})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
