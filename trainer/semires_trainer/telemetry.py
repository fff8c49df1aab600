"""What a run tells while it works: progress bars on a terminal, JSON lines elsewhere; values go to
metrics.jsonl and TensorBoard.

    with open_reporter(output, job="refcoco-1pct", rank=rank, phases=phases) as reporter:
        with reporter.stage("burn-in", 960, unit="step", samples_per_unit=12):
            for step in ...:
                reporter.advance(epoch=3, epochs=8, loss=0.41)
            with reporter.stage("evaluate", 40, unit="batch"):   # nested: not charged to the burn-in
                reporter.advance()

Only rank 0 talks; the reporter of another rank accepts the same calls and lets nothing but errors through, and
warnings into the log file. With a progress file, rank 0 also leaves where it is for the process that watches it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from semires_trainer.eta import EtaEstimator, Phase, format_seconds
from semires_trainer.metrics_log import MetricsLog
from semires_trainer.progress_file import ProgressSink
from semires_trainer.sinks import (
    STEP,
    Count,
    Duration,
    JsonSink,
    LogFileSink,
    NullSink,
    Position,
    Sink,
    TeeSink,
    TerminalSink,
    Value,
)

__all__ = [
    "Phase",
    "Position",
    "ReportFiles",
    "Reporter",
    "Sink",
    "format_seconds",
    "logging_to",
    "null_reporter",
    "open_reporter",
]

SPEED_WINDOW_SECONDS = 20.0
TRACEBACK_CHARACTERS = 20_000


@dataclasses.dataclass
class _Stage:
    name: str
    total: int
    unit: str
    samples_per_unit: int
    began: float
    last: float
    done: int = 0
    carried_seconds: float = 0.0
    waited_seconds: float = 0.0
    speed: tuple[float, float] = (0.0, 0.0)
    values: dict[str, Value] = dataclasses.field(default_factory=dict)


class Reporter:
    """The one interface through which a run tells what it does."""

    def __init__(
        self,
        sink: Sink,
        *,
        phases: Sequence[Phase] = (),
        metrics: MetricsLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._metrics = metrics
        self._clock = clock
        self._stages: list[_Stage] = []
        self._handler: logging.Handler | None = None
        self._previous_level = logging.NOTSET
        self.eta = EtaEstimator(phases)

    @contextlib.contextmanager
    def stage(
        self, name: str, total_units: int, *, unit: str = STEP, samples_per_unit: int = 0, done: int = 0
    ) -> Iterator[None]:
        """Everything inside belongs to `name`: `total_units` in this turn, of which `done` were done before a
        resume.

        Stages nest; time in the inner one is not charged to the outer. `samples_per_unit` > 0 shows images
        per second.
        """
        now = self._clock()
        if self._stages:
            outer = self._stages[-1]
            outer.carried_seconds += now - outer.last
        self.eta.expect(name, self.eta.done(name) + total_units)
        self.eta.skip(name, done)
        entered = _Stage(name, total_units, unit, samples_per_unit, began=now, last=now, done=done)
        self._stages.append(entered)
        self._sink.stage_begins(self.position())
        try:
            yield
        finally:
            self._sink.stage_ends(self.position())
            self._stages.pop()
            if self._stages:
                self._stages[-1].last = self._clock()

    def advance(self, units: int = 1, **values: Value) -> None:
        """Count `units` of the current stage as done; `values` (epoch, epochs, step, steps, loss ...) replace
        the shown ones.
        """
        stage = self._stages[-1]
        now = self._clock()
        seconds = now - stage.last + stage.carried_seconds
        stage.last, stage.carried_seconds = now, 0.0
        stage.done += units
        stage.values.update(values)
        if units == 0:
            stage.carried_seconds = seconds
            self._sink.progress(self.position())
            return
        decay = 0.5 ** (seconds / SPEED_WINDOW_SECONDS)
        stage.speed = (stage.speed[0] * decay + units, stage.speed[1] * decay + seconds)
        self.eta.add(stage.name, units, seconds)
        if stage.unit == STEP:
            self._sink.added("steps", units)
            self._sink.added("step_seconds", max(0.0, seconds - stage.waited_seconds))
        stage.waited_seconds = 0.0
        self._sink.progress(self.position())

    @contextlib.contextmanager
    def waiting(self, quantity: Duration) -> Iterator[None]:
        """The time inside is waiting of one kind; it does not count as work of the step."""
        began = self._clock()
        try:
            yield
        finally:
            seconds = self._clock() - began
            if self._stages:
                self._stages[-1].waited_seconds += seconds
            self._sink.added(quantity, seconds)

    def count(self, quantity: Count, amount: int = 1) -> None:
        """`amount` more of what adds up over the attempt."""
        self._sink.added(quantity, amount)

    def evaluated(self, model: str, split: str, *, overall_iou: float, mean_iou: float) -> None:
        """Tell the figures of a model ("burn-in", "teacher") on a split at S x S, in percent."""
        self._sink.evaluated(model, split, overall_iou=overall_iou, mean_iou=mean_iou)

    def skip(self, units: int) -> None:
        """Count `units` of the current stage as done without work: found in a store, done before."""
        self._stages[-1].done += units
        self.eta.skip(self._stages[-1].name, units)
        self._stages[-1].last = self._clock()

    def message(self, text: str, **fields: Any) -> None:
        """Say one sentence, with facts a program may want as fields."""
        self._sink.event(logging.INFO, "message", text, fields)

    def warning(self, text: str, **fields: Any) -> None:
        """Say what should be looked at but does not stop the run."""
        self._sink.event(logging.WARNING, "warning", text, fields)

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append `values` to metrics.jsonl and TensorBoard; `step` counts the whole run's optimizer steps."""
        self._sink.logged(values)
        if self._metrics is not None:
            self._metrics.log(step, values, stage=self._stages[-1].name if self._stages else "")

    def position(self) -> Position:
        """Where the run is; only inside a stage."""
        stage = self._stages[-1]
        units, seconds = stage.speed
        speed = stage.samples_per_unit * units / seconds if stage.samples_per_unit and seconds > 0 else None
        return Position(
            stage=stage.name,
            done=stage.done,
            total=stage.total,
            unit=stage.unit,
            values=dict(stage.values),
            samples_per_second=speed,
            fraction=self.eta.fraction_done(),
            remaining_seconds=self.eta.remaining_seconds(),
            elapsed_seconds=self._clock() - stage.began,
        )

    def route_logging(self, level: int = logging.INFO) -> None:
        """Send Python's logging and warnings through this reporter until `close`: ours from `level`, others'
        from WARNING.
        """
        self._handler = _ReporterHandler(self._sink, level)
        logging.getLogger().addHandler(self._handler)
        own = logging.getLogger("semires_trainer")
        self._previous_level = own.level
        own.setLevel(level)
        logging.captureWarnings(True)

    def close(self) -> None:
        """End the display, flush the files, give logging back. Safe to call twice."""
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
            logging.getLogger("semires_trainer").setLevel(self._previous_level)
            logging.captureWarnings(False)
            self._handler = None
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        self._sink.close()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _ReporterHandler(logging.Handler):
    """Feeds log records into a sink: our own from the level asked for, other libraries' from WARNING."""

    def __init__(self, sink: Sink, level: int) -> None:
        super().__init__()
        self._sink = sink
        self._own_level = level

    def emit(self, record: logging.LogRecord) -> None:
        own = record.name.split(".")[0] == "semires_trainer"
        if record.levelno < (self._own_level if own else max(self._own_level, logging.WARNING)):
            return
        text, fields = record.getMessage().strip(), {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            text += f" [{type(error).__name__}: {error}]"
            fields["traceback"] = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
        self._sink.event(record.levelno, "log", text, fields)


class _BetweenReporters(_ReporterHandler):
    """Leaves to a reporter what is logged while one is open."""

    def emit(self, record: logging.LogRecord) -> None:
        others = [handler for handler in logging.getLogger().handlers if handler is not self]
        if any(isinstance(handler, _ReporterHandler) for handler in others):
            return
        super().emit(record)
        if not others and logging.lastResort is not None:
            # Python says warnings on stderr only while nobody handles them, and now we do.
            logging.lastResort.handle(record)


@contextlib.contextmanager
def logging_to(path: Path, *, job: str = "", attempt: int = 1, rank: int = 0) -> Iterator[None]:
    """Append warnings and errors to the log file of a run while no reporter is open, and say them on stderr as ever.

    Around everything a rank does: an exception that ends it closes its reporter before it is logged.
    """
    sink = LogFileSink(path, job=job, attempt=attempt, rank=rank)
    handler = _BetweenReporters(sink, logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        sink.close()


def null_reporter() -> Reporter:
    """A reporter that shows and writes nothing: tests, library use."""
    return Reporter(NullSink())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Where a run leaves what it tells, beside the terminal or stderr, for whoever watches it."""

    progress: Path | None = None
    """Replaced by rank 0 about once a second (progress_file.py)."""
    log: Path | None = None
    """JSON lines: all of rank 0, warnings and errors of the others. Each rank appends."""
    steps: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Optimizer steps of each training stage of the whole run, in their order."""


def open_reporter(
    output: Path | None,
    *,
    job: str = "",
    attempt: int = 1,
    rank: int | None = 0,
    phases: Sequence[Phase] = (),
    resume_step: int = 0,
    stream: TextIO | None = None,
    files: ReportFiles | None = None,
) -> Reporter:
    """The reporter of this process: bars if `stream` (stderr) is a terminal, else JSON lines; silent but for
    errors off rank 0. The supervisor is no rank: None; on a terminal it leaves all but warnings to rank 0.

    output: folder of metrics.jsonl and events/; None writes neither. resume_step: step of the checkpoint a
    run goes on from; what was logged beyond it is dropped. Logging and warnings are routed into the reporter
    until it is closed.
    """
    target, files = sys.stderr if stream is None else stream, files or ReportFiles()
    identity: dict[str, Any] = {"job": job, "attempt": attempt, "rank": rank}
    level = logging.WARNING if rank else logging.INFO
    others: list[Sink] = []
    if files.log is not None:
        others.append(LogFileSink(files.log, minimum_level=level, **identity))
    if rank:
        silent = JsonSink(target, minimum_level=logging.ERROR, **identity)
        reporter = Reporter(TeeSink(silent, *others))
    else:
        said = logging.INFO if rank == 0 else logging.WARNING
        shown: Sink = TerminalSink(target, minimum_level=said) if target.isatty() else JsonSink(target, **identity)
        if files.progress is not None:
            others.append(ProgressSink(files.progress, steps=files.steps, resume_step=resume_step))
        metrics = None if output is None else MetricsLog(output, resume_step=resume_step)
        reporter = Reporter(TeeSink(shown, *others), phases=phases, metrics=metrics)
    reporter.route_logging(level)
    return reporter
