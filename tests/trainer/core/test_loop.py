"""The loop with a stub step at its edge: policies about losses that are not finite, patience, when to save."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semires_trainer.checkpoint import TrainingState
from semires_trainer.checkpoint_folders import Progress
from semires_trainer.checkpoint_keeper import Saved
from semires_trainer.distributed import World
from semires_trainer.errors import DivergedError
from semires_trainer.signals import StopFlag, StopRequested
from semires_trainer.telemetry import null_reporter
from semires_trainer.train import Policy, Shell, StagePlan, train_stage

EPOCHS, STEPS_PER_EPOCH = 4, 3
TOTAL = EPOCHS * STEPS_PER_EPOCH


@dataclass
class Bench:
    """A small network, a step that fails when told to, and a disk in memory."""

    bad_steps: Sequence[int] = ()
    oious: Sequence[float] = (1.0, 2.0, 3.0, 4.0)
    stop_in: int | None = None
    requested_in: Sequence[int] = ()
    stop: StopFlag = field(default_factory=StopFlag)
    student: nn.Module = field(default_factory=lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    teacher: nn.Module = field(init=False)
    computed: list[int] = field(default_factory=list)
    followed: list[int] = field(default_factory=list)
    draws: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    published: list[int | None] = field(default_factory=list)
    settled: int = 0
    disk: list[tuple[Progress, dict[str, Any], dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        for parameter in self.student.parameters():
            nn.init.normal_(parameter)
        self.teacher = copy.deepcopy(self.student)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.1)
        self.state = TrainingState(
            student=self.student,
            teacher=self.teacher,
            optimizer=self.optimizer,
            progress=Progress(stage="train"),
            identity="one",
            steps_per_epoch=STEPS_PER_EPOCH,
        )

    # The step: what steps.MutualStep is to the loop.
    def compute_gradients(self, micro_batches: list[Any], *, step: int) -> dict[str, Tensor]:
        self.computed.append(step)
        self.draws.append(float(torch.rand(())))
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        if step == self.stop_in:
            self.stop.signal_number = 15
        x = torch.randn(8, 3) * (math.nan if step in self.bad_steps else 1.0)
        loss = self.student(x).square().mean()
        loss.backward()
        return {"loss": loss}

    def follow_student(self) -> None:
        self.followed.append(self.computed[-1])
        with torch.no_grad():
            for own, source in zip(self.teacher.state_dict().values(), self.student.state_dict().values(), strict=True):
                own.copy_(source)

    # The shell.
    def save(self, state: TrainingState) -> None:
        self.disk.append((state.progress, copy.deepcopy(state.student.state_dict()), {}))

    save_end = save

    def save_now(self, state: TrainingState) -> Saved:
        self.save(state)
        return Saved(sentence=f"Saved step {state.progress.step}.", step=100 + state.progress.step)

    def settle(self) -> None:
        self.settled += 1

    def restore(self, state: TrainingState) -> bool:
        if not self.disk:
            return False
        state.progress, weights, _ = self.disk[-1]
        state.student.load_state_dict(weights)
        return True

    def evaluate(self) -> float:
        return self.oious[self.state.progress.step // STEPS_PER_EPOCH - 1]

    def run(self, *, evaluate_every: int = 1, **policy: Any) -> None:
        defaults: dict[str, Any] = {
            "seed": 0,
            "checkpoint_interval_steps": None,
            "checkpoint_interval_epochs": 1,
            "patience": None,
            "nan_policy": "Stop",
            "nan_limit": 2,
            "log_interval_steps": 1,
        }
        plan = StagePlan(
            name="train",
            first_step=100,
            total_steps=TOTAL,
            steps_per_epoch=STEPS_PER_EPOCH,
            evaluate_every_epochs=evaluate_every,
            images_per_step=8,
            learning_rate=lambda step: 0.1 * (1 - step / TOTAL),
            batches=endless,
            step=self,
            evaluate=self.evaluate,
            publish_best=lambda progress: self.published.append(progress.best_step),
        )
        shell = Shell(
            world=World(),
            reporter=null_reporter(),
            stop=self.stop,
            checkpoints=self,
            save_requested=lambda: self.computed[-1] in self.requested_in,
        )
        train_stage(plan, self.state, Policy(**{**defaults, **policy}), shell)

    @property
    def saved_steps(self) -> list[int]:
        return [progress.step for progress, _, _ in self.disk]


def endless(_start: int) -> Iterator[list[Any]]:
    while True:
        yield []


def tensors_of(bench: Bench) -> list[Tensor]:
    return [*bench.student.state_dict().values(), *bench.teacher.state_dict().values()]


def test_a_stage_runs_all_steps_and_finishes() -> None:
    bench = Bench()
    bench.run()

    assert bench.computed == bench.followed == list(range(TOTAL))
    assert bench.rates == [0.1 * (1 - step / TOTAL) for step in range(TOTAL)]
    assert bench.published == [3, 6, 9, 12]
    assert bench.disk[-1][0].finished


@pytest.mark.parametrize(
    ("policy", "saved"),
    [
        pytest.param({"checkpoint_interval_epochs": 1}, [3, 6, 9, 12], id="each-epoch"),
        pytest.param({"checkpoint_interval_epochs": 3}, [9, 12], id="each-third-epoch-and-the-end"),
        pytest.param(
            {"checkpoint_interval_epochs": None, "checkpoint_interval_steps": 5}, [5, 10, 12], id="each-fifth-step"
        ),
        pytest.param(
            {"checkpoint_interval_epochs": None, "checkpoint_interval_steps": 6},
            [6, 6, 12, 12],
            id="before-and-after-an-evaluation",
        ),
    ],
)
def test_checkpoints_are_written_as_asked(policy: dict[str, Any], saved: list[int]) -> None:
    bench = Bench()
    bench.run(**policy)

    assert bench.saved_steps == saved


def test_a_checkpoint_that_somebody_asks_for_is_written_once_after_the_step() -> None:
    bench = Bench(requested_in=(0, 4))
    bench.run(checkpoint_interval_epochs=4)

    assert bench.saved_steps == [1, 5, 12]
    assert bench.settled == TOTAL


@pytest.mark.parametrize(
    ("every", "evaluated"),
    [pytest.param(1, [3, 6, 9, 12], id="each"), pytest.param(3, [9, 12], id="each-third-and-the-last")],
)
def test_epochs_are_evaluated_as_asked_and_saved_even_so(every: int, evaluated: list[int]) -> None:
    bench = Bench()
    bench.run(evaluate_every=every)

    assert bench.published == evaluated
    assert bench.saved_steps == [3, 6, 9, 12]


def test_a_stage_that_is_finished_does_nothing() -> None:
    bench = Bench()
    bench.state.progress = replace(bench.state.progress, step=TOTAL, finished=True)
    bench.run()

    assert (bench.computed, bench.disk) == ([], [])


@pytest.mark.parametrize(
    ("oious", "patience", "last_step"),
    [
        pytest.param((5.0, 4.0, 3.0, 6.0), 2, 9, id="two-epochs-without-gain"),
        pytest.param((5.0, 4.0, 6.0, 3.0), 2, 12, id="a-gain-starts-over"),
        pytest.param((5.0, 5.0, 6.0, 7.0), 1, 6, id="equal-is-no-gain"),
        pytest.param((5.0, 4.0, 3.0, 2.0), None, 12, id="no-patience-no-early-stop"),
    ],
)
def test_patience_ends_a_stage(oious: Sequence[float], patience: int | None, last_step: int) -> None:
    bench = Bench(oious=oious)
    bench.run(patience=patience)

    assert bench.state.progress.step == last_step
    assert bench.state.progress.finished
    assert bench.state.progress.best_oiou == max(oious[: last_step // STEPS_PER_EPOCH])


def test_patience_survives_a_stop() -> None:
    bench = Bench(oious=(5.0, 4.0, 3.0, 6.0), stop_in=7)
    with pytest.raises(StopRequested, match=r"Saved step 8\.") as stopped:
        bench.run(patience=2)
    bench.stop.signal_number = 0
    bench.run(patience=2)

    assert stopped.value.saved_step == 108
    assert bench.computed == list(range(9))


def test_a_stop_in_the_evaluation_saves_the_epoch_unevaluated() -> None:
    bench = Bench()

    def cut_short() -> float:
        raise StopRequested(143, "Cut short.")

    bench.evaluate = cut_short  # type: ignore[method-assign]
    with pytest.raises(StopRequested, match=r"Saved step 3\.") as stopped:
        bench.run()

    assert stopped.value.exit_code == 143
    assert bench.disk[-1][0] == Progress(stage="train", step=3)


def test_stop_ends_at_the_first_loss_that_is_not_finite() -> None:
    bench = Bench(bad_steps=[4])
    with pytest.raises(DivergedError, match=r"nanPolicy: the loss of train step 4 is not finite.*learningRate") as end:
        bench.run()

    assert end.value.exit_code == 4
    assert bench.followed == [0, 1, 2, 3]


def test_skip_leaves_the_step_out_and_goes_on() -> None:
    bench = Bench(bad_steps=[4, 6])
    bench.run(nan_policy="Skip", checkpoint_interval_epochs=1)

    assert bench.computed == list(range(TOTAL))
    assert bench.followed == [step for step in range(TOTAL) if step not in (4, 6)]
    assert bench.state.progress.skipped_steps == (4, 6)


def test_a_step_that_is_left_out_leaves_no_trace_in_the_running_statistics() -> None:
    """Batch norm has moved its running mean to NaN before the loss is known; the teacher would follow."""
    bench = Bench(bad_steps=[4])
    bench.run(nan_policy="Skip")

    assert all(bool(tensor.isfinite().all()) for tensor in tensors_of(bench))


def test_roll_back_repeats_from_the_checkpoint_without_the_step() -> None:
    bench = Bench(bad_steps=[4])
    bench.run(nan_policy="RollBack")

    assert bench.computed == [0, 1, 2, 3, 4, 3, 4, *range(5, TOTAL)]
    assert bench.followed == [0, 1, 2, 3, 3, *range(5, TOTAL)]
    assert bench.state.progress.skipped_steps == (4,)
    assert all(bool(tensor.isfinite().all()) for tensor in tensors_of(bench))


def test_roll_back_without_a_checkpoint_leaves_the_step_out() -> None:
    bench = Bench(bad_steps=[1])
    bench.run(nan_policy="RollBack")

    assert bench.computed == list(range(TOTAL))
    assert bench.state.progress.skipped_steps == (1,)


@pytest.mark.parametrize("policy", ["Skip", "RollBack"])
def test_too_many_steps_left_out_end_the_run(policy: str) -> None:
    bench = Bench(bad_steps=[3, 4, 5])
    with pytest.raises(DivergedError, match=r"step 5 is not finite \(2 steps left out before\)"):
        bench.run(nan_policy=policy, nan_limit=2)


def test_the_limit_counts_over_a_stop() -> None:
    bench = Bench(bad_steps=[1, 5, 7], stop_in=5)
    with pytest.raises(StopRequested):
        bench.run(nan_policy="Skip")
    bench.stop.signal_number = 0

    with pytest.raises(DivergedError, match="step 7"):
        bench.run(nan_policy="Skip")


def test_chance_is_a_function_of_the_step() -> None:
    """A run that starts in the middle draws what the whole run drew there."""
    whole, part = Bench(), Bench()
    part.state.progress = replace(part.state.progress, step=7)
    whole.run()
    part.run()

    assert part.draws == whole.draws[7:]
    assert len(set(whole.draws)) == TOTAL
