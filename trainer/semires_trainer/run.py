"""One process of a run: load, then proposals, burn-in, mutual learning and evaluation in order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import torch

from semires_trainer.checkpoint_folders import Progress
from semires_trainer.checkpoint_request import CheckpointRequest
from semires_trainer.config import Resolved, ResolvedTraining, SemiRESJob, resolve
from semires_trainer.data.bad_images import BadImages
from semires_trainer.data.pictures import is_usable
from semires_trainer.distributed import World, joined_world
from semires_trainer.exhaustion import LOADING, PROPOSALS, memory_errors
from semires_trainer.fetch import Places, localize
from semires_trainer.identity import claim_output
from semires_trainer.inputs import local_path
from semires_trainer.loaders import Loaders
from semires_trainer.materials import Materials, load_materials, propose
from semires_trainer.orders import CONTROL_FOLDER, STAGES, Attempt, ControlFolder, Orders
from semires_trainer.proposals.packed_cache import PackedCache
from semires_trainer.results import Results, read_results
from semires_trainer.schedule import check_batches
from semires_trainer.showcase import draw_pictures
from semires_trainer.signals import StopFlag, StopRequested, stop_on_signals
from semires_trainer.stages import EVALUATION_BATCH, Run, burn_in, evaluate_all, mutual_learning, progress_of
from semires_trainer.steps import Compute
from semires_trainer.storage import Storage
from semires_trainer.telemetry import Phase, Reporter, ReportFiles, null_reporter, open_reporter
from semires_trainer.threads import available_cores


def run_rank(resolved: Resolved, *, orders: Orders, control: ControlFolder, stop: StopFlag) -> None:
    """What each process does: load, then each stage in order."""
    resolved, training = located(resolved, orders), resolved.training
    with (
        joined_world(device=training.device, deterministic=training.deterministic) as world,
        memory_errors(LOADING, world),
    ):
        check_batches(training, processes=world.size)
        compute = Compute(world=world, bf16=uses_bf16(training, world), channels_last=training.channels_last)
        leave_if_asked(world, stop)
        materials = load_materials(resolved)
        leave_if_asked(world, stop)
        loaders = Loaders(
            resolved=resolved,
            materials=materials,
            world=world,
            workers=loader_workers(training, world),
            bad_images=open_bad_images(resolved, materials, world, control),
        )
        unreported = Run(
            resolved=resolved,
            identity=orders.identity,
            loaders=loaders,
            compute=compute,
            reporter=null_reporter(),
            stop=stop,
            save_requested=CheckpointRequest(control.checkpoint_request).take,
        )
        with closing(report_of(unreported, orders, control)) as reporter:
            run_stages(replace(unreported, reporter=reporter), orders.stages)


def located(resolved: Resolved, orders: Orders) -> Resolved:
    """`resolved` as the ranks read and write it: local paths only."""
    here = localize(resolved, Places(paths=orders.places))
    return replace(here, output=orders.work, proposals=replace(here.proposals, store=orders.store))


def leave_if_asked(world: World, stop: StopFlag) -> None:
    """StopRequested on all ranks if one was asked to stop before there was anything to save."""
    if world.any(stop.is_set):
        raise StopRequested(stop.exit_code, "Nothing had been done since the last checkpoint; start again to go on.")


def run_here(job: SemiRESJob, *, stages: Sequence[str] = STAGES) -> Results | None:
    """Run `stages` of a job in this process, without a supervisor; returns the results if it evaluated.

    Output and inputs are local. Raises SemiresError and, after a requested stop, StopRequested.
    """
    resolved = resolve(job)
    output = local_path(resolved.output)
    check_batches(resolved.training, processes=1)
    with Storage() as storage:
        identity = claim_output(storage, str(output), resolved).identity
    orders = Orders(
        job={},
        places={},
        store=str(local_path(resolved.proposals.store)),
        work=str(output),
        identity=identity,
        stages=tuple(stages),
        attempt=Attempt(job=resolved.name, number=1),
    )
    with stop_on_signals() as stop:
        run_rank(resolved, orders=orders, control=ControlFolder(output / CONTROL_FOLDER), stop=stop)
    return read_results(output / "results.json") if "evaluate" in stages else None


def open_bad_images(resolved: Resolved, materials: Materials, world: World, control: ControlFolder) -> BadImages:
    """The bad images this node knows. Those of an earlier start are looked at again: repaired ones are used.

    DataError if more than the limit are still bad.
    """
    known = BadImages(folder=control.bad_images, limit=resolved.dataset.bad_image_limit)
    if world.local_rank == 0:
        records = {record.file_name: record for record in materials.dataset.images.values()}
        known.forget_mended(lambda name: name not in records or is_usable(materials.images, records[name]))
    world.barrier()
    return known


def run_stages(this: Run, stages: Sequence[str]) -> None:
    """Each stage in its order; what is done already is skipped by the stages themselves."""
    cache = None
    try:
        if "propose" in stages:
            cache = make_proposals(this)
        if "train" in stages:
            burn_in(this)
            mutual_learning(this, cache or make_proposals(this))
        if "evaluate" in stages:
            evaluate_all(this)
            if this.world.is_main:
                draw_pictures(this)
            this.world.barrier()
    finally:
        this.tell_bad_images()


def make_proposals(this: Run) -> PackedCache:
    """The proposals of all train images in use; bad images have none."""
    with memory_errors(PROPOSALS, this.world):
        return propose(
            this.resolved,
            this.loaders.materials,
            this.world,
            this.reporter,
            stop=this.stop,
            on_bad=this.note_bad_image if this.loaders.bad_images else None,
        )


def report_of(this: Run, orders: Orders, control: ControlFolder) -> Reporter:
    """The reporter of this process, which knows how much work lies ahead and where the run goes on."""
    progress = progress_of(this)
    return open_reporter(
        this.output,
        job=this.resolved.name,
        attempt=orders.attempt.number,
        rank=this.world.rank,
        phases=phases_of(this, orders.stages, progress),
        resume_step=this.first_step(progress.stage) + progress.step,
        files=ReportFiles(
            progress=control.progress,
            log=control.log,
            steps={stage: length.total_steps for stage, length in this.lengths.items()},
        ),
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
    per_rank = available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, per_rank - 1))
