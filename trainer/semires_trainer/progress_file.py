"""Where a run is, in one small file: rank 0 replaces it, the process that supervises the ranks reads it.

Nothing is synced: the file speaks of now, and is worth nothing after the machine has stopped.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError
from pydantic.alias_generators import to_camel

from semires_trainer.sinks import STEP, Count, Duration, NullSink, Position

SCHEMA_VERSION: Final = 1
MAX_BYTES = 64 * 1024
"""A longer file is not read; ours have 1 to 4 KiB."""
TOUCHED_SECONDS = 0.5
"""A file this much newer than what it says was touched: rank 0 goes on, but there was no room for more."""
METRIC_NAMES = ("loss", "learningRate", "imagesPerSecond", "matchRatio", "oIoU", "mIoU")
"""Names of the metrics of a report, in their order; oIoU and mIoU in percent, as the papers give them."""
LOSS_PARTS = {"loss": "total", "supervised": "supervised", "unsupervised": "unsupervised", "sam": "sam", "pwa": "pwa"}
"""Logged value -> part of the loss: the last two are the shares of matched and unmatched pseudo-labels."""
MAX_EVALUATIONS = 64

Name = Annotated[str, Field(max_length=64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Percent = Annotated[float, Field(allow_inf_nan=False, ge=0, le=100)]
Ratio = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False
    )


class Metric(_Part):
    """One metric, as in Kubeflow's TrainerStatus."""

    name: Name
    """One of METRIC_NAMES."""
    value: Name
    """A finite decimal number."""


class EvaluationFigures(_Part):
    """The last evaluation of a model on a split, at S x S."""

    model: Name
    """burn-in or teacher."""
    split: Name
    overall_iou: Percent = Field(alias="oIoU")
    mean_iou: Percent = Field(alias="mIoU")


class Training(_Part):
    """What the metrics of an attempt are made of: last values, and sums since rank 0 started."""

    progress_ratio: Ratio = 0.0
    """Share of the whole run's time that is done."""
    loss: dict[Name, Finite] = Field(default_factory=dict, max_length=16)
    """By part (LOSS_PARTS), of this stage."""
    learning_rate: Finite | None = None
    images_per_second: NonNegativeFloat | None = None
    match_ratio: Ratio | None = None
    """Share of the pseudo-labels that the strategy refined, in the last logged step."""
    evaluations: tuple[EvaluationFigures, ...] = Field(default=(), max_length=MAX_EVALUATIONS)
    steps: NonNegativeInt = 0
    step_seconds: NonNegativeFloat = 0.0
    """Without what the steps waited for."""
    data_wait_seconds: NonNegativeFloat = 0.0
    checkpoint_stall_seconds: NonNegativeFloat = 0.0
    skipped_steps: NonNegativeInt = 0
    bad_images: NonNegativeInt = 0


class ProgressReport(_Part):
    """Content of the progress file. What the run does not know yet is None."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Name
    """Innermost stage: proposals, burn-in, train or evaluate."""
    epoch: NonNegativeInt | None = None
    """Of the training stage, from 1."""
    epochs: NonNegativeInt | None = None
    step: NonNegativeInt = 0
    """Optimizer steps done, of the whole run."""
    steps: NonNegativeInt = 0
    """Optimizer steps of the whole run."""
    progress_percentage: Annotated[int, Field(ge=0, le=100)] = 0
    estimated_remaining_seconds: NonNegativeInt | None = None
    last_updated_time: AwareDatetime
    beat: NonNegativeInt
    """Grows with each unit of work: a rank whose beat stands still works on one unit, or hangs."""
    started: bool
    """Whether this process has done an optimizer step: the first takes longer than others."""
    metrics: tuple[Metric, ...] = Field(default=(), max_length=len(METRIC_NAMES))
    training: Training = Training()

    def to_json(self) -> str:
        """One line of JSON."""
        return self.model_dump_json(by_alias=True) + "\n"


class Reading(NamedTuple):
    """A report, or the reason why there is none."""

    report: ProgressReport | None
    reason: str


def read_progress(path: Path) -> Reading:
    """The report in `path`; None and a sentence if the file is absent, unreadable, torn or of another schema.

    Its time is that of the file where that is newer.
    """
    try:
        with path.open("rb") as file:
            content, touched = file.read(MAX_BYTES + 1), os.fstat(file.fileno()).st_mtime
    except OSError as error:
        return Reading(None, f"{path}: {error.strerror}")
    if len(content) > MAX_BYTES:
        return Reading(None, f"{path}: longer than {MAX_BYTES} bytes")
    try:
        report = ProgressReport.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        return Reading(None, f"{path}: {place}: {first['msg']}")
    if touched - report.last_updated_time.timestamp() > TOUCHED_SECONDS:
        moved = datetime.datetime.fromtimestamp(touched, datetime.UTC)
        report = report.model_copy(update={"last_updated_time": moved})
    return Reading(report, "")


def replace_text(path: Path, text: str, *, at: float | None = None) -> None:
    """Replace a file that one process writes: readers see the old text or the new one. Not synced (see above).

    `at`: its time by this machine's clock, which that of the disk may not follow.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    if at is not None:
        os.utime(temporary, (at, at))
    os.replace(temporary, path)


class ProgressSink(NullSink):
    """Keeps the progress file: replaced when a stage begins or ends, after an evaluation, at the end, and in
    between at most every `interval_seconds`.
    """

    def __init__(
        self,
        path: Path,
        *,
        steps: Mapping[str, int] | None = None,
        resume_step: int = 0,
        interval_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """steps: optimizer steps of each training stage in order; resume_step: those of the run done before."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._steps = dict(steps or {})
        self._interval = interval_seconds
        self._clock = clock
        self._written_at = -math.inf
        self._position: Position | None = None
        self._beat = 0
        self._step = resume_step
        self._epoch: int | None = None
        self._epochs: int | None = None
        self._images_per_second: float | None = None
        self._values: dict[str, float] = {}
        self._sums: dict[Duration | Count, float] = {}
        self._evaluations: dict[tuple[str, str], EvaluationFigures] = {}

    def progress(self, position: Position) -> None:
        """Count a beat; replace the file if the last time was long enough ago."""
        self._beat += 1
        self._follow(position)
        if self._clock() - self._written_at >= self._interval:
            self._write()

    def stage_begins(self, position: Position) -> None:
        """Replace the file; a training stage starts with a loss of its own."""
        if position.unit == STEP:
            self._epoch = self._epochs = None
            self._values = {}
        self._follow(position)
        self._write()

    def stage_ends(self, position: Position) -> None:
        """Replace the file."""
        self._follow(position)
        self._write()

    def logged(self, values: Mapping[str, float]) -> None:
        """Keep what a report shows of the last logged step."""
        self._keep({name.rpartition("/")[2]: value for name, value in values.items()})

    def added(self, quantity: Duration | Count, amount: float) -> None:
        """Add up."""
        self._sums[quantity] = self._sums.get(quantity, 0) + amount

    def evaluated(self, model: str, split: str, *, overall_iou: float, mean_iou: float) -> None:
        """Keep the figures of each model and split; replace the file."""
        figures = EvaluationFigures(
            model=model, split=split, oIoU=_within(overall_iou, 100), mIoU=_within(mean_iou, 100)
        )
        if (model, split) in self._evaluations or len(self._evaluations) < MAX_EVALUATIONS:
            self._evaluations[model, split] = figures
        self._write()

    def close(self) -> None:
        """Leave the last state."""
        self._write()

    def _follow(self, position: Position) -> None:
        self._position = position
        if position.unit != STEP:
            return
        before = itertools.takewhile(lambda stage: stage != position.stage, self._steps)
        self._step = sum(self._steps[stage] for stage in before) + position.done
        self._images_per_second = position.samples_per_second
        epoch, epochs = position.values.get("epoch"), position.values.get("epochs")
        if isinstance(epoch, int) and isinstance(epochs, int):
            self._epoch, self._epochs = epoch, epochs
        if "loss" in position.values:
            self._keep({"loss": float(position.values["loss"])})

    def _keep(self, values: Mapping[str, float]) -> None:
        """A value that is not finite is not known, rather than what it was before."""
        for name, value in values.items():
            if math.isfinite(value):
                self._values[name] = value
            else:
                self._values.pop(name, None)

    def _write(self) -> None:
        if self._position is not None:
            self._written_at = self._clock()
            report = self._report(self._position)
            at = report.last_updated_time.timestamp()
            try:
                replace_text(self._path, report.to_json(), at=at)
            except OSError:
                with contextlib.suppress(OSError):
                    os.utime(self._path, (at, at))  # a full disk has room for this: nobody takes us for hung
                raise

    def _report(self, position: Position) -> ProgressReport:
        training, remaining = self._training(position), position.remaining_seconds
        return ProgressReport(
            stage=position.stage,
            epoch=self._epoch,
            epochs=self._epochs,
            step=self._step,
            steps=max(self._step, sum(self._steps.values())),
            progress_percentage=int(100 * training.progress_ratio),
            estimated_remaining_seconds=None if remaining is None else max(0, round(remaining)),
            last_updated_time=datetime.datetime.now(datetime.UTC),
            beat=self._beat,
            started=training.steps > 0,
            metrics=metrics_of(training),
            training=training,
        )

    def _training(self, position: Position) -> Training:
        values, sums = self._values, self._sums
        return Training(
            progress_ratio=_within(position.fraction, 1),
            loss={part: values[name] for name, part in LOSS_PARTS.items() if name in values},
            learning_rate=values.get("learning_rate"),
            images_per_second=self._images_per_second,
            match_ratio=_within(values["matched_share"], 1) if "matched_share" in values else None,
            evaluations=tuple(self._evaluations.values()),
            steps=int(sums.get("steps", 0)),
            step_seconds=sums.get("step_seconds", 0.0),
            data_wait_seconds=sums.get("data_wait_seconds", 0.0),
            checkpoint_stall_seconds=sums.get("checkpoint_stall_seconds", 0.0),
            skipped_steps=int(sums.get("skipped_steps", 0)),
            bad_images=int(sums.get("bad_images", 0)),
        )


def _within(value: float, limit: float) -> float:
    """A share that was added up may end a rounding error outside of its range."""
    return min(limit, max(0.0, value))


def metrics_of(training: Training) -> tuple[Metric, ...]:
    """The metrics that are known, in the order of METRIC_NAMES.

    oIoU and mIoU are those of the model that a run is for, the teacher once it was evaluated, on the split that was
    evaluated first: the one by which the best model is chosen.
    """
    chosen = [figures for figures in training.evaluations if figures.split == training.evaluations[0].split]
    figures = {
        "loss": training.loss.get("total"),
        "learningRate": training.learning_rate,
        "imagesPerSecond": training.images_per_second,
        "matchRatio": training.match_ratio,
        "oIoU": chosen[-1].overall_iou if chosen else None,
        "mIoU": chosen[-1].mean_iou if chosen else None,
    }
    return tuple(Metric(name=name, value=f"{figures[name]:.6g}") for name in METRIC_NAMES if figures[name] is not None)
