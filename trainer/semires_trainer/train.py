"""The training loop, the same for burn-in and mutual learning. What a step computes is in steps.py."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from semires_trainer.checkpoint import TrainingState
from semires_trainer.checkpoint_folders import Progress, Stage
from semires_trainer.checkpoint_keeper import Saved
from semires_trainer.distributed import World
from semires_trainer.errors import DivergedError
from semires_trainer.optim import set_learning_rate
from semires_trainer.signals import StopFlag, StopRequested
from semires_trainer.telemetry import Reporter

STAGE_NUMBERS: Mapping[Stage, int] = {"burn-in": 0, "train": 1}


class Step(Protocol):
    """What one optimizer step does besides the optimizer."""

    def compute_gradients(self, micro_batches: list[Any], *, step: int) -> dict[str, Tensor]:
        """Forward and backward; leaves averaged gradients and returns this rank's share of each value, "loss" too."""
        ...

    def follow_student(self) -> None:
        """Called after each update (mean teacher)."""
        ...


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage: how long, over what, and what happens at its epoch ends."""

    name: Stage
    first_step: int
    """Steps of the run before this stage, for metrics and checkpoint names."""
    total_steps: int
    steps_per_epoch: int
    evaluate_every_epochs: int
    """Epochs between evaluations; the last one is always evaluated."""
    images_per_step: int
    """Images of the global batch, labelled and unlabelled."""
    learning_rate: Callable[[int], float]
    batches: Callable[[int], Iterator[list[Any]]]
    """Micro-batches of this rank for each step, from a given step on."""
    step: Step
    evaluate: Callable[[], float]
    """oIoU in percent on the selection split, of the model that is selected; StopRequested if it was cut short."""
    publish_best: Callable[[Progress], None]
    """Keep the selected model's weights: the last evaluation was the best so far."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When to save, when to stop early, what to do about a loss that is not finite."""

    seed: int
    checkpoint_interval_steps: int | None
    """Steps between checkpoints; None: by epochs."""
    checkpoint_interval_epochs: int | None
    """Epochs between checkpoints; None: by steps. The end of a stage is always saved."""
    patience: int | None
    """Epochs without a better oIoU before the stage ends; None: never."""
    nan_policy: str
    """Stop, Skip or RollBack."""
    nan_limit: int
    """Steps that may be left out before the run counts as diverged."""
    log_interval_steps: int


class Checkpoints(Protocol):
    """The disk, for one stage. Only `save` and `settle` are for rank 0 alone; at the others all ranks meet."""

    def save(self, state: TrainingState) -> None:
        """Begin to write a checkpoint; a failure is told later and training goes on."""

    def settle(self) -> None:
        """Tell what became of the last one, if it has ended."""

    def save_now(self, state: TrainingState) -> Saved:
        """Write a checkpoint and wait for it; says what is left if it can't be written."""
        ...

    def save_end(self, state: TrainingState) -> None:
        """Write the end of the stage; InfrastructureError if it can't be written."""

    def restore(self, state: TrainingState) -> bool:
        """Load the newest checkpoint of this stage; False if there is none."""
        ...


def never() -> bool:
    """Nobody asks for a checkpoint."""
    return False


@dataclass(frozen=True, kw_only=True)
class Shell:
    """What the loop needs of the outside world."""

    world: World
    reporter: Reporter
    stop: StopFlag
    checkpoints: Checkpoints
    save_requested: Callable[[], bool] = never
    """Whether somebody asked for a checkpoint since the last call; asked on rank 0, once after each step."""


class _RollBack(Exception):
    """The state was set back to a checkpoint; steps go on from there."""


def train_stage(plan: StagePlan, state: TrainingState, policy: Policy, shell: Shell) -> None:
    """Run a stage from `state.progress` to its end. Raises StopRequested (after saving) and DivergedError."""
    while not state.progress.finished:
        with (
            shell.reporter.stage(
                plan.name, plan.total_steps, done=state.progress.step, samples_per_unit=plan.images_per_step
            ),
            contextlib.suppress(_RollBack),
        ):
            run_steps(plan, state, policy, shell)


def run_steps(plan: StagePlan, state: TrainingState, policy: Policy, shell: Shell) -> None:
    """The loop. Everything random in a step is seeded by (seed, stage, step, rank), so it can start at any step."""
    batches = plan.batches(state.progress.step)
    while True:
        evaluate_if_due(plan, state, policy, shell)
        if state.progress.finished:
            return
        step = state.progress.step
        with shell.reporter.waiting("data_wait_seconds"):
            micro_batches = next(batches)
        seed_step(policy.seed, plan.name, step, shell.world.rank)
        set_learning_rate(state.optimizer, plan.learning_rate(step))
        statistics = copy_buffers(state.student)
        values, stop = sum_over_ranks(plan.step.compute_gradients(micro_batches, step=step), shell)
        if math.isfinite(values["loss"]) and step not in state.progress.skipped_steps:
            state.optimizer.step()
            plan.step.follow_student()
        else:
            restore_buffers(state.student, statistics)
            leave_out_step(plan, state, policy, shell)
        state.optimizer.zero_grad(set_to_none=True)
        state.progress = replace(state.progress, step=step + 1)
        report_step(plan, step, values, policy, shell)
        if stop:
            raise stopped(shell.stop.exit_code, state, shell)
        if shell.world.is_main:
            save_if_due(plan, state, policy, shell)


def save_if_due(plan: StagePlan, state: TrainingState, policy: Policy, shell: Shell) -> None:
    """After a step: tell what became of the last checkpoint, begin one if it is time or somebody asked."""
    shell.checkpoints.settle()
    requested = shell.save_requested()
    if requested or checkpoint_is_due(plan, policy, state.progress):
        shell.checkpoints.save(state)


def stopped(exit_code: int, state: TrainingState, shell: Shell) -> StopRequested:
    """Save, and say so."""
    saved = shell.checkpoints.save_now(state)
    return StopRequested(exit_code, saved.sentence, saved_step=saved.step)


def evaluate_if_due(plan: StagePlan, state: TrainingState, policy: Policy, shell: Shell) -> None:
    """At an epoch end that was not evaluated yet (also after a resume): evaluate, keep the best, save, or finish."""
    before = state.progress
    if not evaluation_is_due(plan, before):
        return
    try:
        oiou = plan.evaluate()
    except StopRequested as stop:
        raise stopped(stop.exit_code, state, shell) from stop
    after = before.with_evaluation(oiou)
    state.progress = replace(after, finished=is_finished(plan, policy, after))
    shell.reporter.log_metrics(plan.first_step + before.step, {f"{plan.name}/val_oiou": oiou})
    if after.best_step == after.step:
        plan.publish_best(after)
    if state.progress.finished:
        shell.checkpoints.save_end(state)
    elif shell.world.is_main and checkpoint_is_due(plan, policy, after):
        shell.checkpoints.save(state)
    epoch = before.step // plan.steps_per_epoch
    shell.reporter.message(
        f"Epoch {epoch} of {plan.name}: oIoU {oiou:.2f} on the selection split, best {after.best_oiou:.2f}.",
        epoch=epoch,
        oiou=oiou,
    )


def evaluation_is_due(plan: StagePlan, progress: Progress) -> bool:
    """At the end of each N-th epoch and of the stage, unless it was evaluated already."""
    steps = plan.steps_per_epoch * plan.evaluate_every_epochs
    at_end = progress.step > 0 and (progress.step % steps == 0 or progress.step == plan.total_steps)
    return at_end and progress.evaluated_step != progress.step


def checkpoint_is_due(plan: StagePlan, policy: Policy, progress: Progress) -> bool:
    """At each N-th step, or at the end of each N-th epoch: after its evaluation, if there is one."""
    if policy.checkpoint_interval_steps is not None:
        return progress.step % policy.checkpoint_interval_steps == 0
    steps = plan.steps_per_epoch * (policy.checkpoint_interval_epochs or 1)
    return progress.step % steps == 0 and not evaluation_is_due(plan, progress)


def is_finished(plan: StagePlan, policy: Policy, progress: Progress) -> bool:
    """All steps done, or no better oIoU for `patience` epochs (equal on all ranks: the metric is)."""
    out_of_patience = policy.patience is not None and progress.epochs_without_gain >= policy.patience
    return progress.step >= plan.total_steps or out_of_patience


def seed_step(seed: int, stage: Stage, step: int, rank: int) -> None:
    """Make dropout and drop-path of this step a function of (seed, stage, step, rank)."""
    entropy = np.random.SeedSequence([seed, STAGE_NUMBERS[stage], step, rank])
    torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))


def sum_over_ranks(values: Mapping[str, Tensor], shell: Shell) -> tuple[dict[str, float], bool]:
    """Each value summed over the ranks, and whether one was asked to stop: one all-reduce, one transfer to the host."""
    stop = torch.tensor(float(shell.stop.is_set), dtype=torch.float64, device=shell.world.device)
    stacked = torch.stack([*(value.detach().double() for value in values.values()), stop])
    *sums, stops = shell.world.sum(stacked).tolist()
    return dict(zip(values, sums, strict=True)), stops > 0


def copy_buffers(model: nn.Module) -> list[Tensor]:
    """Batch norm's running statistics: a step that is left out has moved them already, perhaps to NaN."""
    return [buffer.clone() for buffer in model.buffers()]


def restore_buffers(model: nn.Module, copies: Sequence[Tensor]) -> None:
    """Put back what `copy_buffers` returned."""
    for buffer, copy in zip(model.buffers(), copies, strict=True):
        buffer.copy_(copy)


def leave_out_step(plan: StagePlan, state: TrainingState, policy: Policy, shell: Shell) -> None:
    """Apply the NaN policy: the optimizer has not stepped. All ranks see the same summed loss and do the same."""
    step = state.progress.step
    if step in state.progress.skipped_steps:
        return
    skipped = (*state.progress.skipped_steps, step)
    if policy.nan_policy == "Stop" or len(skipped) > policy.nan_limit:
        raise DivergedError(
            f"the loss of {plan.name} step {step} is not finite ({len(skipped) - 1} steps left out before)",
            field="spec.training.nanPolicy",
            remedy="Lower spec.training.learningRate, set precision: FP32, or allow Skip or RollBack with a limit",
        )
    shell.reporter.warning(f"The loss of {plan.name} step {step} is not finite; the step is left out.", step=step)
    shell.reporter.count("skipped_steps")
    if policy.nan_policy == "RollBack" and shell.checkpoints.restore(state):
        state.progress = replace(state.progress, skipped_steps=skipped)
        state.optimizer.zero_grad(set_to_none=True)
        raise _RollBack
    state.progress = replace(state.progress, skipped_steps=skipped)


def report_step(plan: StagePlan, step: int, values: Mapping[str, float], policy: Policy, shell: Shell) -> None:
    """Advance the progress bar; log all values each `log_interval_steps` steps."""
    epoch = step // plan.steps_per_epoch + 1
    shell.reporter.advance(epoch=epoch, epochs=plan.total_steps // plan.steps_per_epoch, loss=values["loss"])
    if (step + 1) % policy.log_interval_steps == 0:
        logged = {f"{plan.name}/{name}": value for name, value in values.items() if math.isfinite(value)}
        logged[f"{plan.name}/learning_rate"] = plan.learning_rate(step)
        shell.reporter.log_metrics(plan.first_step + step + 1, logged)
