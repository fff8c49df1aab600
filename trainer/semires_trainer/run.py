"""`semires run`: from a manifest to a trained, evaluated model; one process, or several started by torchrun."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from semires_trainer import atomic
from semires_trainer.checkpoint import Progress
from semires_trainer.config import Resolved, ResolvedTraining, SemiRESJob, resolve
from semires_trainer.distributed import World, joined_world
from semires_trainer.errors import ConfigError, GpuMemoryError, InfrastructureError
from semires_trainer.identity import claim_output
from semires_trainer.loaders import Loaders
from semires_trainer.materials import load_materials, propose
from semires_trainer.outcome import clear_outcome, read_outcome
from semires_trainer.results import Results, read_results
from semires_trainer.schedule import burn_in_batches, mutual_batches
from semires_trainer.showcase import draw_pictures
from semires_trainer.signals import stop_on_signals
from semires_trainer.stages import EVALUATION_BATCH, Run, burn_in, evaluate_all, mutual_learning, progress_of
from semires_trainer.steps import Compute
from semires_trainer.telemetry import Phase, Reporter, null_reporter, open_reporter

STAGES = ("propose", "train", "evaluate")


def run(job: SemiRESJob, *, nproc: int = 1, stages: Sequence[str] = STAGES) -> Results | None:
    """Run `stages` of a job on `nproc` processes of this machine; returns the results if it evaluated.

    Raises SemiresError for what a user can mend and StopRequested after a requested stop.
    """
    resolved = resolve(job)
    output = local_path(resolved.output)
    check_batches(resolved.training, processes=nproc)
    if nproc > 1:
        launch(job, output, nproc=nproc, stages=stages)
    else:
        run_rank(resolved, stages=stages)
    return read_results(output / "results.json") if "evaluate" in stages else None


def local_path(output: str) -> Path:
    """The output folder; ConfigError for a storage service, which this version cannot write to."""
    path = output.removeprefix("file://")
    if "://" in path:
        raise ConfigError(
            f"results can only be written to a local folder, got {output}",
            field="spec.output",
            remedy="Give a path, for example runs/my-job",
        )
    return Path(path).expanduser()


def with_local_paths(resolved: Resolved) -> Resolved:
    """`resolved` with the folders it writes to as plain paths, without `~` and `file://`."""
    store = str(local_path(resolved.proposals.store))
    return replace(
        resolved, output=str(local_path(resolved.output)), proposals=replace(resolved.proposals, store=store)
    )


def check_batches(training: ResolvedTraining, *, processes: int) -> None:
    """ConfigError if the global batches cannot be dealt to the processes: found before any work is done."""
    burn_in_batches(training, processes=processes)
    mutual_batches(training, processes=processes)


@contextmanager
def gpu_memory_errors() -> Iterator[None]:
    """Tell a user what to do when the GPU's memory is exhausted."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise GpuMemoryError(
            f"the GPU has too little memory: {error}",
            field="spec.training.microBatch",
            remedy="Halve it: accumulation keeps the global batch the same",
        ) from error


def run_rank(resolved: Resolved, *, stages: Sequence[str]) -> None:
    """What each process does: load, then each stage in order."""
    resolved, training = with_local_paths(resolved), resolved.training
    with (
        joined_world(device=training.device, deterministic=training.deterministic) as world,
        stop_on_signals() as stop,
        gpu_memory_errors(),
    ):
        check_batches(training, processes=world.size)
        compute = Compute(world=world, bf16=uses_bf16(training, world), channels_last=training.channels_last)
        workers = loader_workers(training, world)
        loaders = Loaders(resolved=resolved, materials=load_materials(resolved), world=world, workers=workers)
        identity = str(world.broadcast(claim_output(Path(resolved.output), resolved) if world.is_main else None))
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
    make_proposals = functools.partial(
        propose, this.resolved, this.loaders.materials, this.world, this.reporter, stop=this.stop
    )
    if "propose" in stages:
        cache = make_proposals()
    if "train" in stages:
        burn_in(this)
        mutual_learning(this, cache or make_proposals())
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
        phases=phases_of(this, stages, progress),
        resume_step=resume_step,
    )


def phases_of(this: Run, stages: Sequence[str], progress: Progress) -> list[Phase]:
    """The work ahead in the reporter's units, for the ETA of the whole run."""
    splits = this.resolved.dataset.evaluate
    batches = {split: -(-len(this.loaders.evaluation(split)) // EVALUATION_BATCH) for split in splits}
    ahead = {stage: length for stage, length in this.lengths.items() if "train" in stages and not progress.past(stage)}
    every = {"burn-in": this.training.burn_in_evaluate_every, "train": 1}
    turns = sum(-(-length.epochs // every[stage]) for stage, length in ahead.items())
    evaluations = turns * batches[splits[0]] + (2 * sum(batches.values()) if "evaluate" in stages else 0)
    return [
        *(Phase(name=stage, units=length.total_steps) for stage, length in ahead.items()),
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
    """Start `nproc` ranks with torchrun and wait; raises LaunchedRunFailed with what a rank says went wrong."""
    output.mkdir(parents=True, exist_ok=True)
    clear_outcome(output)
    manifest = output / "manifest.json"
    # Only what was given: some checks ask whether a field was, as optimizedTextLayers of a small text encoder.
    atomic.write_text(manifest, job.model_dump_json(by_alias=True, exclude_unset=True) + "\n")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"),
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
    raise LaunchedRunFailed(outcome.message, exit_code=outcome.exit_code)


class LaunchedRunFailed(Exception):
    """A run of several processes ended as one of them says."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
