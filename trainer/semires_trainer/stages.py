"""The stages of a run: burn-in, mutual learning, evaluation. Each is resumable, and skipped when it is done."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from semires_trainer.atomic import file_sha256
from semires_trainer.bad_image_report import BadImageReport
from semires_trainer.checkpoint import TrainingState
from semires_trainer.checkpoint_folders import Progress, Stage, read_progress
from semires_trainer.checkpoint_keeper import newest_checkpoint, open_keeper
from semires_trainer.checkpoint_writer import disk_failure
from semires_trainer.config import Resolved, ResolvedModel, ResolvedTraining
from semires_trainer.data.datasets import EvalDataset
from semires_trainer.distributed import World, synchronize_batch_norm
from semires_trainer.errors import DataError
from semires_trainer.evaluate import Evaluation, evaluate
from semires_trainer.exhaustion import EVALUATION, memory_errors, training_of
from semires_trainer.loaders import Loaders
from semires_trainer.models.build import build_model, parameter_groups
from semires_trainer.models.deploy import MODEL_FILE, ModelInfo, load_model, save_model
from semires_trainer.models.lavt import LAVT
from semires_trainer.optim import build_optimizer, poly_learning_rate
from semires_trainer.proposals.packed_cache import PackedCache
from semires_trainer.replication import mirror
from semires_trainer.results import BURN_IN, ORIGINAL, TEACHER, Results, Score, read_results, write_results
from semires_trainer.schedule import (
    StageLength,
    burn_in_batches,
    burn_in_length,
    mutual_batches,
    mutual_length,
)
from semires_trainer.signals import StopFlag
from semires_trainer.steps import BurnInStep, Compute, MutualStep, Student
from semires_trainer.telemetry import Reporter
from semires_trainer.train import Policy, Shell, StagePlan, Step, never, train_stage

T = TypeVar("T")

EVALUATION_BATCH = 16
"""Expressions per forward pass: the same on every number of processes, so that the figures are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What all stages share."""

    resolved: Resolved
    identity: str
    loaders: Loaders
    compute: Compute
    reporter: Reporter
    stop: StopFlag
    save_requested: Callable[[], bool] = never
    """Whether somebody asked for a checkpoint since the last call; asked on rank 0 after each step."""

    @property
    def world(self) -> World:
        """The processes of this run."""
        return self.compute.world

    @property
    def training(self) -> ResolvedTraining:
        """`spec.training`."""
        return self.resolved.training

    @property
    def output(self) -> Path:
        """Where results go."""
        return Path(self.resolved.output)

    @property
    def checkpoints(self) -> Path:
        """Where training checkpoints go."""
        return self.output / "checkpoints"

    def model_folder(self, model: str) -> Path:
        """The deployable folder of "burn-in" or "teacher"."""
        return self.output / {BURN_IN: "burn-in", TEACHER: "model"}[model]

    @functools.cached_property
    def lengths(self) -> dict[Stage, StageLength]:
        """Steps of each stage."""
        split = self.loaders.materials.split
        return {
            "burn-in": burn_in_length(self.training, num_labeled=len(split.labeled_refs)),
            "train": mutual_length(self.training, num_unlabeled=len(split.unlabeled_refs)),
        }

    @functools.cached_property
    def bad_image_report(self) -> BadImageReport | None:
        """What rank 0 tells of bad images; None elsewhere, and where each is an error."""
        known = self.loaders.bad_images
        return BadImageReport(known, self.reporter, self.output) if known and self.world.is_main else None

    def note_bad_image(self, file_name: str, reason: str) -> None:
        """Count a training image that can't be used; DataError if there are too many."""
        if self.loaders.bad_images:
            self.loaders.bad_images.add(file_name, reason)
            self.tell_bad_images()

    def tell_bad_images(self) -> None:
        """Warn of the bad images found since the last time."""
        if self.bad_image_report:
            self.bad_image_report.tell()

    def watched(self, batches: Iterator[T], first_step: int) -> Iterator[T]:
        """The batches of the steps of the run from `first_step` on, with word of the bad images they met."""
        return self.bad_image_report.watch(batches, first_step) if self.bad_image_report else batches

    def first_step(self, stage: Stage) -> int:
        """Steps of the run before a stage."""
        return 0 if stage == "burn-in" else self.lengths["burn-in"].total_steps


def progress_of(run: Run) -> Progress:
    """Where the run stands, from its newest valid checkpoint; the beginning if there is none."""
    newest = newest_checkpoint(run.checkpoints, run.world)
    return read_progress(newest, identity=run.identity) if newest else Progress(stage="burn-in")


def burn_in(run: Run) -> None:
    """Train on the labelled refs; `burn-in/` ends as the model with the best oIoU on the selection split."""
    if progress_of(run).past("burn-in"):
        run.reporter.message("Burn-in is done already.")
        return
    model = build_start(run, run.resolved.model)
    if run.lengths["burn-in"].total_steps == 0:
        publish(run, model, BURN_IN, {"stage": "initial weights", "source": run.resolved.model.init_from})
        return
    student = prepare_student(run, model)
    state = new_state(run, student, teacher=None, progress=Progress(stage="burn-in"))
    plan = run.loaders.burn_in
    batches = functools.partial(plan, burn_in_batches(run.training, processes=run.world.size))
    train(run, state, BurnInStep(student, run.training), batches, selected=model, name=BURN_IN)


def mutual_learning(run: Run, cache: PackedCache) -> None:
    """Teacher and student start from `burn-in/` (Eq. 2); `model/` ends as the best teacher."""
    if progress_of(run).past("train"):
        run.reporter.message("Mutual learning is done already.")
        return
    mirror(run.world, run.model_folder(BURN_IN))
    if run.lengths["train"].total_steps == 0:
        run.reporter.message("There is nothing unlabelled to learn from, or epochs is 0: the burn-in model is kept.")
        publish(run, load_model(run.model_folder(BURN_IN))[0], TEACHER, {"stage": "burn-in"})
        return
    start = dataclasses.replace(run.resolved.model, init_from=str(run.model_folder(BURN_IN)))
    student = prepare_student(run, build_start(run, start))
    teacher = build_start(run, start).to(run.world.device).requires_grad_(False).eval()
    state = new_state(run, student, teacher=teacher, progress=Progress(stage="train"))
    step = MutualStep(student, teacher, run.resolved.refinement, run.training)
    batches = functools.partial(run.loaders.mutual, mutual_batches(run.training, processes=run.world.size), cache)
    train(run, state, step, batches, selected=teacher, name=TEACHER)


def build_start(run: Run, section: ResolvedModel) -> LAVT:
    """A network with its starting weights, a function of the manifest."""
    return build_model(section, seed=run.training.seed, text_dropout=section.text_dropout)


def prepare_student(run: Run, model: LAVT) -> Student:
    """Move a model to the device, with batch norm over the global batch; freeze what is never optimised."""
    model = model.to(run.world.device)
    synchronize_batch_norm(model, run.world)
    parameter_groups_of(run, model)
    training = run.training
    return Student(model, run.compute, compiled=training.compile, deterministic=training.deterministic)


def parameter_groups_of(run: Run, model: LAVT) -> list[dict[str, Any]]:
    """The optimizer's groups; parameters outside them no longer require gradients."""
    return parameter_groups(
        model,
        weight_decay=run.training.weight_decay,
        optimized_text_layers=run.training.optimized_text_layers,
        train_embeddings=run.training.train_embeddings,
    )


def new_state(run: Run, student: Student, *, teacher: LAVT | None, progress: Progress) -> TrainingState:
    """State at the first step of a stage."""
    optimizer = build_optimizer(
        parameter_groups_of(run, student.model),
        learning_rate=run.training.learning_rate,
        device=run.world.device,
    )
    return TrainingState(
        student=student.model,
        teacher=teacher,
        optimizer=optimizer,
        progress=progress,
        identity=run.identity,
        steps_per_epoch=run.lengths[progress.stage].steps_per_epoch,
    )


def train(
    run: Run,
    state: TrainingState,
    step: Step,
    batches: Callable[[int, int], Iterator[list[Any]]],
    *,
    selected: LAVT,
    name: str,
) -> None:
    """Run one stage from its newest checkpoint, if there is one, to its end."""
    stage, length, training = state.progress.stage, run.lengths[state.progress.stage], run.training
    plan = StagePlan(
        name=stage,
        first_step=run.first_step(stage),
        total_steps=length.total_steps,
        steps_per_epoch=length.steps_per_epoch,
        evaluate_every_epochs=training.burn_in_evaluate_every if stage == "burn-in" else 1,
        images_per_step=training.burn_in_batch
        if stage == "burn-in"
        else training.batch_labeled + training.batch_unlabeled,
        learning_rate=functools.partial(
            poly_learning_rate,
            total_steps=length.total_steps,
            base=training.learning_rate,
            power=training.poly_power,
            horizon=training.lr_horizon,
        ),
        batches=lambda start: run.watched(batches(start, length.total_steps), run.first_step(stage) + start),
        step=step,
        evaluate=lambda: select_by(run, selected, name),
        publish_best=lambda progress: publish(run, selected, name, provenance(run, progress)),
    )
    activity = training_of(stage, training, processes=run.world.size)
    keeper = open_keeper(
        run.checkpoints,
        world=run.world,
        reporter=run.reporter,
        first_step=run.first_step(stage),
        keep_last=training.keep_last,
        milestones=kept_for_good(run),
    )
    # Memory errors outside: torch tells of a lost loader process wherever the rank is, also while it ends a write.
    with memory_errors(activity, run.world), keeper as checkpoints:
        checkpoints.restore(state)
        shell = Shell(
            world=run.world,
            reporter=run.reporter,
            stop=run.stop,
            checkpoints=checkpoints,
            save_requested=run.save_requested,
        )
        train_stage(plan, state, policy_of(run, stage), shell)


def policy_of(run: Run, stage: Stage) -> Policy:
    """When to save and when to stop early; burn-in always runs to its end."""
    training = run.training
    return Policy(
        seed=training.seed,
        checkpoint_interval_steps=training.checkpoint_interval_steps,
        checkpoint_interval_epochs=training.checkpoint_interval_epochs,
        patience=training.patience if stage == "train" and training.patience else None,
        nan_policy=training.nan_policy,
        nan_limit=training.nan_limit,
        log_interval_steps=training.log_interval_steps,
    )


def select_by(run: Run, model: LAVT, name: str) -> float:
    """oIoU in percent on the first evaluation split, by which the best model is chosen."""
    split = run.resolved.dataset.evaluate[0]
    dataset = run.loaders.evaluation(split, mode=run.training.model_selection)
    figures = evaluate_on(run, model, dataset).square
    run.reporter.evaluated(name, split, overall_iou=figures.overall_iou, mean_iou=figures.mean_iou)
    return figures.overall_iou


def evaluate_on(run: Run, model: LAVT, dataset: EvalDataset) -> Evaluation:
    """Figures of a model on a split; StopRequested if the run was asked to stop meanwhile."""
    with memory_errors(EVALUATION, run.world):
        return evaluate(
            model,
            dataset,
            run.compute,
            run.reporter,
            batch_size=EVALUATION_BATCH,
            workers=run.loaders.workers,
            stop=run.stop,
        )


def provenance(run: Run, progress: Progress) -> dict[str, Any]:
    """Where a published model comes from."""
    return {
        "job": run.resolved.name,
        "identity": run.identity,
        "stage": progress.stage,
        "step": progress.step,
        "selectionSplit": run.resolved.dataset.evaluate[0],
        "oIoU": progress.best_oiou,
    }


def publish(run: Run, model: LAVT, name: str, origin: dict[str, Any]) -> None:
    """Write a deployable model folder, on rank 0.

    Raises InfrastructureError if it can't be written: the next start evaluates the last checkpoint again.
    """
    if run.world.is_main:
        section = run.resolved.model
        info = ModelInfo(
            image_size=section.image_size,
            max_tokens=section.max_tokens,
            provenance=origin,
            vocab=run.loaders.materials.vocab,
        )
        try:
            save_model(run.model_folder(name), model, info)
        except OSError as error:
            raise disk_failure(error, run.model_folder(name)) from error
    run.world.barrier()


def kept_for_good(run: Run) -> set[int]:
    """Numbers of the checkpoints at the end of each `keep_every`-th epoch of a stage."""
    every = run.training.keep_every
    if every is None:
        return set()
    return {
        run.first_step(stage) + epoch * length.steps_per_epoch
        for stage, length in run.lengths.items()
        for epoch in range(every, length.epochs + 1, every)
    }


def evaluate_all(run: Run) -> None:
    """Evaluate the burn-in model and the teacher on every split of the manifest; write `results.json`."""
    for name in (BURN_IN, TEACHER):
        mirror(run.world, run.model_folder(name))
    descriptions = {name: run.model_folder(name) / MODEL_FILE for name in (BURN_IN, TEACHER)}
    models = {name: file_sha256(path) for name, path in descriptions.items() if path.is_file()}
    details = {"identity": run.identity, "models": models}
    path = run.output / "results.json"
    if run.world.broadcast(is_evaluated(path, details)):
        run.reporter.message(f"These models are evaluated already: {path}.")
        return
    scores = tuple(score for name in models for score in evaluate_folder(run, name))
    if run.world.is_main:
        write_results(path, Results(job=run.resolved.name, scores=scores, details=details))
    run.world.barrier()


def is_evaluated(path: Path, details: dict[str, Any]) -> bool:
    """Whether `path` holds the figures of just these models; a file that is absent or damaged does not."""
    try:
        return read_results(path).details == details
    except DataError:
        return False


def evaluate_folder(run: Run, name: str) -> list[Score]:
    """Scores of one published model: every split, at S x S and at original size."""
    model = load_model(run.model_folder(name))[0].to(run.world.device)
    scores = []
    for split in run.resolved.dataset.evaluate:
        evaluation = evaluate_on(run, model, run.loaders.evaluation(split))
        square = evaluation.square
        run.reporter.evaluated(name, split, overall_iou=square.overall_iou, mean_iou=square.mean_iou)
        sizes = {str(run.resolved.model.image_size): evaluation.square, ORIGINAL: evaluation.original}
        scores += [Score.of(metrics, model=name, split=split, size=size) for size, metrics in sizes.items()]
    return scores
