"""Ways to show what a run tells: progress bars on a terminal, one JSON object a line elsewhere, both beside a file."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn

from semires_trainer.eta import format_seconds

Value = float | int | str

STEP = "step"
"""Unit of the stages that train: an optimizer step."""
Duration = Literal["step_seconds", "data_wait_seconds", "checkpoint_stall_seconds"]
"""Seconds that add up: of optimizer steps, without what they waited for; of waiting for batches, for a checkpoint."""
Count = Literal["steps", "skipped_steps", "bad_images"]
"""Numbers that add up: optimizer steps; those left out, their loss not being finite; pictures that cannot be read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
    """Where the innermost stage is, and the whole run."""

    stage: str
    done: int
    total: int
    unit: str
    values: Mapping[str, Value]
    """Latest values given to `advance`: epoch, epochs, loss ..."""
    samples_per_second: float | None
    """Images per second in this stage, None where the stage counts none."""
    fraction: float
    """Share of the whole run that is done, 0 to 1."""
    remaining_seconds: float | None
    """Estimate for the whole run, None while nothing is measured."""
    elapsed_seconds: float
    """Since this stage began."""


class Sink(Protocol):
    """Shows what a Reporter is told."""

    def progress(self, position: Position) -> None:
        """The innermost stage moved on."""

    def stage_begins(self, position: Position) -> None:
        """A stage begins, inside the one shown before if that has not ended."""

    def stage_ends(self, position: Position) -> None:
        """The innermost stage ends, complete or not."""

    def event(self, level: int, event: str, message: str, fields: Mapping[str, Any]) -> None:
        """Something was said; `level` as in logging."""

    def logged(self, values: Mapping[str, float]) -> None:
        """Values of a step, named `<stage>/<value>`, went to metrics.jsonl."""

    def added(self, quantity: Duration | Count, amount: float) -> None:
        """`amount` more of what adds up over the attempt."""

    def evaluated(self, model: str, split: str, *, overall_iou: float, mean_iou: float) -> None:
        """Figures of a model on a split at S x S, in percent."""

    def close(self) -> None:
        """Nothing follows."""


class NullSink:
    """Shows nothing: the base of sinks that show some of it."""

    def progress(self, position: Position) -> None:
        """Nothing."""

    def stage_begins(self, position: Position) -> None:
        """Nothing."""

    def stage_ends(self, position: Position) -> None:
        """Nothing."""

    def event(self, level: int, event: str, message: str, fields: Mapping[str, Any]) -> None:
        """Nothing."""

    def logged(self, values: Mapping[str, float]) -> None:
        """Nothing."""

    def added(self, quantity: Duration | Count, amount: float) -> None:
        """Nothing."""

    def evaluated(self, model: str, split: str, *, overall_iou: float, mean_iou: float) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TeeSink:
    """Shows everything in several places.

    A file that cannot be written, on a full disk say, does not end the run: the first sink is told once.
    """

    def __init__(self, first: Sink, *others: Sink) -> None:
        self._first = first
        self._others = others
        self._failed: set[int] = set()

    def progress(self, position: Position) -> None:
        """To all."""
        self._tell(lambda sink: sink.progress(position))

    def stage_begins(self, position: Position) -> None:
        """To all."""
        self._tell(lambda sink: sink.stage_begins(position))

    def stage_ends(self, position: Position) -> None:
        """To all."""
        self._tell(lambda sink: sink.stage_ends(position))

    def event(self, level: int, event: str, message: str, fields: Mapping[str, Any]) -> None:
        """To all."""
        self._tell(lambda sink: sink.event(level, event, message, fields))

    def logged(self, values: Mapping[str, float]) -> None:
        """To all."""
        self._tell(lambda sink: sink.logged(values))

    def added(self, quantity: Duration | Count, amount: float) -> None:
        """To all."""
        self._tell(lambda sink: sink.added(quantity, amount))

    def evaluated(self, model: str, split: str, *, overall_iou: float, mean_iou: float) -> None:
        """To all."""
        self._tell(lambda sink: sink.evaluated(model, split, overall_iou=overall_iou, mean_iou=mean_iou))

    def close(self) -> None:
        """To all; the first last, so that it can still tell what the others could not write."""
        with contextlib.closing(self._first):
            for number, sink in enumerate(self._others):
                self._try(number, sink, lambda one: one.close())

    def _tell(self, call: Callable[[Sink], None]) -> None:
        call(self._first)
        for number, sink in enumerate(self._others):
            self._try(number, sink, call)

    def _try(self, number: int, sink: Sink, call: Callable[[Sink], None]) -> None:
        try:
            call(sink)
        except OSError as error:
            if number not in self._failed:
                self._failed.add(number)
                text = f"The run goes on, but what it tells is not written: {error}."
                self._first.event(logging.WARNING, "warning", text, {})


class JsonSink(NullSink):
    """One JSON object a line: time, level, event, job, attempt, rank, then what the event is about.

    Progress is written when a stage begins and ends, and in between at most every `interval_seconds`.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        job: str = "",
        attempt: int = 1,
        rank: int | None = 0,
        minimum_level: int = logging.DEBUG,
        interval_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._identity = {"job": job, "attempt": attempt, "rank": rank}
        self._minimum_level = minimum_level
        self._interval = interval_seconds
        self._clock = clock
        self._last_progress = -math.inf

    def progress(self, position: Position) -> None:
        """Write a progress line unless one was written less than the interval ago."""
        if self._clock() - self._last_progress >= self._interval:
            self._write(logging.INFO, "progress", _facts(position))

    def stage_begins(self, position: Position) -> None:
        """Write 'stage_begin' with the total."""
        self._write(logging.INFO, "stage_begin", _facts(position))

    def stage_ends(self, position: Position) -> None:
        """Write 'stage_end' with what was reached."""
        self._write(logging.INFO, "stage_end", _facts(position))

    def event(self, level: int, event: str, message: str, fields: Mapping[str, Any]) -> None:
        """Write one line of this event; the fields cannot replace time, level, event and identity."""
        self._write(level, event, {"message": message, **fields})

    def close(self) -> None:
        """Flush; the stream belongs to the caller."""
        self._stream.flush()

    def _write(self, level: int, event: str, facts: Mapping[str, Any]) -> None:
        if level < self._minimum_level:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        head = {"time": now, "level": logging.getLevelName(level).lower(), "event": event, **self._identity}
        record = {**head, **{name: _plain(value) for name, value in facts.items() if name not in head}}
        self._stream.write(json.dumps(record, allow_nan=False) + "\n")
        self._stream.flush()
        if event == "progress" or event.startswith("stage_"):
            self._last_progress = self._clock()


class LogFileSink(JsonSink):
    """JSON lines at the end of a file that several processes write to: each line is one write to O_APPEND."""

    def __init__(self, path: Path, **options: Any) -> None:
        """Open `path`, or make it; `options` as of JsonSink."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered, so that no line is split at the end of a buffer: the kernel appends each write as a whole.
        raw = io.FileIO(path, "ab")
        self._file = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
        super().__init__(self._file, **options)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: numbers rounded to 6 digits, what is not finite as null, other objects as
    text.
    """
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value)


def _facts(position: Position) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "stage": position.stage,
        "done": position.done,
        "total": position.total,
        "unit": position.unit,
        **position.values,
        "elapsed_seconds": round(position.elapsed_seconds, 1),
        "run_fraction": round(position.fraction, 4),
    }
    if position.samples_per_second is not None:
        facts["samples_per_second"] = position.samples_per_second
    if position.remaining_seconds is not None:
        facts["remaining_seconds"] = round(position.remaining_seconds)
    return facts


class TerminalSink(NullSink):
    """One live line per open stage, with the time left for the whole run; what is said scrolls above it."""

    def __init__(self, stream: TextIO, *, minimum_level: int = logging.DEBUG) -> None:
        self._minimum_level = minimum_level
        self._console = Console(file=stream, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            transient=True,
        )
        self._tasks: list[TaskID] = []

    def progress(self, position: Position) -> None:
        """Redraw the innermost line."""
        detail = escape(describe(position))
        self._progress.update(self._tasks[-1], completed=position.done, total=position.total, detail=detail)

    def stage_begins(self, position: Position) -> None:
        """Add a line, indented under the outer stage."""
        if not self._tasks:
            self._progress.start()
        name = "  " * len(self._tasks) + escape(position.stage)
        task = self._progress.add_task(name, total=position.total, completed=position.done, detail="")
        self._tasks.append(task)

    def stage_ends(self, position: Position) -> None:
        """Remove the line; an outermost stage leaves one line that says what was done and in what time."""
        self._progress.remove_task(self._tasks.pop())
        if self._tasks:
            return
        self._progress.stop()
        whole = position.done >= position.total
        mark, shade = ("✓", "green") if whole else ("■", "yellow")
        units = f"{position.done}/{position.total} {plural(position.unit)}"
        took = format_seconds(position.elapsed_seconds)
        self._console.print(f"[{shade}]{mark}[/] {escape(position.stage)}: {units} in {took}")

    def event(self, level: int, event: str, message: str, fields: Mapping[str, Any]) -> None:
        """Print the message above the bars; warnings yellow, errors red."""
        if level < self._minimum_level:
            return
        shade = "red" if level >= logging.ERROR else "yellow" if level >= logging.WARNING else ""
        text = f"[{shade}]{escape(message)}[/]" if shade else escape(message)
        self._console.print(text)

    def close(self) -> None:
        """Remove the bars and give the terminal back."""
        self._progress.stop()


def plural(unit: str) -> str:
    """step -> steps, batch -> batches."""
    return f"{unit}es" if unit.endswith("ch") else f"{unit}s"


def describe(position: Position) -> str:
    """One line: 'epoch 3/8  step 40/120  loss 0.41  12.3 img/s  ETA 4m10s' (ETA of the whole run)."""
    values = dict(position.values)
    parts = [_counted(name, values) for name in ("epoch", "step") if name in values]
    if not any(part.startswith("step") for part in parts):
        parts.append(f"{position.unit} {position.done}/{position.total}")
    parts += [f"{name} {_short(value)}" for name, value in values.items()]
    if position.samples_per_second is not None:
        parts.append(f"{_short(position.samples_per_second)} img/s")
    parts.append(f"ETA {format_seconds(position.remaining_seconds)}")
    return "  ".join(parts)


def _counted(name: str, values: dict[str, Value]) -> str:
    """Take `name` and its plural (the total) out of `values`: 'epoch 3/8'."""
    value, total = values.pop(name), values.pop(f"{name}s", None)
    return f"{name} {value}" if total is None else f"{name} {value}/{total}"


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
