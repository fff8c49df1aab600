"""`semires describe`: how far, how good, what's wrong, what to do next. Builds what rich prints; nothing is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from semires_operator.cli.advice import is_unseen, next_steps
from semires_operator.cli.log_lines import render_line
from semires_operator.cli.words import BLOCKS, age, bar, duration, lines_of, number, phase_text, plain
from semires_operator.client.model import Event, Job
from semires_operator.status import Attempt, Checkpoint, Display, Failure, Progress, Score

SHOWN_EVENTS, SHOWN_LOG_LINES = 12, 6
BAR_WIDTH = 28
DIGEST = re.compile("(@sha256:[0-9a-f]{12})[0-9a-f]+$")
STATUS_SHADES = {"True": "bold", "False": "dim", "Unknown": "yellow"}
ENDED_SHADES = {"Succeeded": "green", "Failed": "red", "Stopped": "magenta", "Lost": "yellow"}
BAD_IF = {"Failed": "True", "Degraded": "True", "CheckpointFresh": "False"}
"""Conditions that are told in red in this state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What is described."""

    job: Job
    events: Sequence[Event]
    now: datetime
    blocks: tuple[str, str] = BLOCKS
    """Characters of the progress bar."""
    zone: tzinfo | None = None
    """Of the times of day in logs; None: that of this machine."""


def describe_job(given: Description) -> Group:
    """The whole page."""
    parts: list[RenderableType] = [*_head(given), *_progress(given)]
    sections = (
        (
            "Results, oIoU/mIoU in %; at the training size, and at that of each picture (original)",
            _results(given.job.status.results),
        ),
        ("What went wrong", _failure(given)),
        ("What it is", _facts(given.job)),
        ("Checkpoints", _checkpoints(given)),
        ("Attempts", _attempts(given)),
        ("Conditions", _conditions(given)),
        ("Events", _events(given)),
        ("What to do next", _advice(given)),
    )
    for title, content in sections:
        if content is not None:
            parts += [Text(), Text(title, style="bold"), Padding(content, (0, 0, 0, 2))]
    return Group(*parts)


def _head(given: Description) -> Iterator[Text]:
    job = given.job
    yield Text.assemble(
        (job.name, "bold"), f"  in {job.namespace}", (f", submitted {age(job.created, given.now)} ago", "dim")
    )
    phase = phase_text(job.status.phase)
    phase.stylize("bold")
    is_told = job.status.reason and job.status.reason != job.status.phase
    line = Text.assemble(phase, f" ({job.status.reason})" if is_told else "")
    if job.status.message:
        line.append(": ").append_text(plain(" ".join(job.status.message.split())))
    yield line
    if not job.is_current and not is_unseen(job, given.now):
        yield Text("The operator has not seen the last change of the spec yet.", style="yellow")
    if job.status.stopping is not None:
        left = (job.status.stopping.deadline - given.now).total_seconds()
        yield Text(f"It waits for a checkpoint, {duration(max(0.0, left))} more at most.", style="yellow")
    if job.status.retry_at is not None and job.status.phase == "Retrying":
        left = (job.status.retry_at - given.now).total_seconds()
        yield Text(f"The next attempt begins in {duration(max(0.0, left))}.", style="yellow")


def _progress(given: Description) -> Iterator[Text]:
    progress = given.job.status.progress
    if progress is None:
        return
    yield Text()
    percent = progress.progress_percentage
    line = bar(percent, width=BAR_WIDTH, blocks=given.blocks)
    line.append(f" {percent:3d} %", style="bold")
    if progress.estimated_remaining_seconds is not None and not given.job.is_finished:
        line.append(f"  {duration(progress.estimated_remaining_seconds)} left")
    yield line
    yield Text(where_of(progress))
    if progress.metrics:
        yield Text("  ".join(f"{metric.name} {number(metric.value)}" for metric in progress.metrics))
    if progress.stale and not given.job.is_finished:
        told = age(progress.last_updated_time, given.now)
        yield Text(f"The trainer can't be asked; this was told {told or 'some time'} ago.", style="yellow")


def where_of(progress: Progress) -> str:
    """train, epoch 12 of 40, step 5,120 of 12,000"""
    parts = [progress.stage] if progress.stage else []
    if progress.epoch is not None:
        parts.append(f"epoch {progress.epoch}" + (f" of {progress.epochs}" if progress.epochs else ""))
    if progress.steps:
        parts.append(f"step {progress.step:,} of {progress.steps:,}")
    return ", ".join(parts)


def _results(scores: Sequence[Score]) -> Table | None:
    """A row per model and size, the final model first; a column per split."""
    if not scores:
        return None
    found = {(score.model, score.size, score.split): score for score in scores}
    rows = sorted({(score.model, score.size) for score in scores})
    rows.sort(key=lambda row: (row[0] != "teacher", row[1] == "original"))
    splits = list(dict.fromkeys(score.split for score in scores))
    table = _table("model", *splits)
    for model, size in rows:
        cells = [found.get((model, size, split)) for split in splits]
        figures = [plain(f"{score.overall_iou}/{score.mean_iou}" if score else "") for score in cells]
        table.add_row(plain(f"{model}, original" if size == "original" else model), *figures)
    return table


def _failure(given: Description) -> RenderableType | None:
    """How the last failed attempt failed."""
    failure = given.job.status.last_failure
    if failure is None or given.job.is_complete:
        return None
    lines: list[RenderableType] = [Text.assemble((failure.reason, "red"), ": ", plain(failure.message))]
    facts = [
        f"field {failure.field}" if failure.field else "",
        f"exit code {failure.exit_code}" if failure.exit_code is not None else "",
        f"on node {failure.node}" if failure.node else "",
    ]
    if any(facts):
        lines.append(plain(", ".join(filter(None, facts))))
    tail = [render_line(line, given.zone) for line in lines_of(failure.log_tail)[-SHOWN_LOG_LINES:]]
    return Group(*lines, *tail)


def _facts(job: Job) -> Table:
    spec = job.spec
    dataset, model = spec.get("dataset") or {}, spec.get("model") or {}
    resources = spec.get("resources") or {}
    display = job.status.display or Display()
    labeled, refine = f", {display.labeled} labelled", f", refinement {display.refine}"
    nodes, each = int(resources.get("nodes", 1)), int(resources.get("gpusPerNode", 4))
    rows = {
        "dataset": f"{dataset.get('name', '?')}{labeled if display.labeled else ''}",
        "training": f"preset {(spec.get('training') or {}).get('preset', '?')}{refine if display.refine else ''}",
        "model": str(model.get("backbone", "")) if not model.get("dimensions") else "own dimensions",
        "GPUs": f"{nodes * each}" + (f" on {nodes} nodes" if nodes > 1 else ""),
        "output": str(spec.get("output", "")),
        "queue": str(spec.get("queue", "")),
        "PyTorchJob": job.status.child,
        "image": DIGEST.sub(r"\1…", job.status.provenance.image if job.status.provenance else spec.get("image", "")),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, plain(value))
    return table


def _checkpoints(given: Description) -> Table | None:
    status = given.job.status
    found = {"newest": status.last_checkpoint, "best": status.best_checkpoint}
    rows: list[tuple[str, Checkpoint]] = [(name, one) for name, one in found.items() if one is not None]
    if not rows:
        return None
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, checkpoint in rows:
        told = f", {age(checkpoint.time, given.now)} ago" if checkpoint.time is not None else ""
        table.add_row(name, Text.assemble(f"step {checkpoint.step:,}{told}\n", plain(checkpoint.uri)))
    return table


def _attempts(given: Description) -> Table | None:
    status = given.job.status
    is_under_way = status.attempt > (status.attempts[-1].number if status.attempts else 0)
    if not status.attempts and not is_under_way:
        return None
    table = _table("#", "ended", "took", "why")
    shown = None if given.job.is_complete else status.last_failure
    for attempt in status.attempts:
        table.add_row(
            str(attempt.number),
            Text(attempt.ended, style=ENDED_SHADES[attempt.ended]),
            _took(attempt),
            _why(attempt, shown),
        )
    if is_under_way:
        took = age(status.running_since, given.now) if status.phase in {"Running", "Stopping"} else ""
        table.add_row(str(status.attempt), Text("not yet", style="dim"), took, "")
    return table


def _took(attempt: Attempt) -> str:
    if attempt.started_at is None or attempt.ended_at is None:
        return ""
    return duration((attempt.ended_at - attempt.started_at).total_seconds())


def _why(attempt: Attempt, shown: Failure | None) -> Text:
    """Reason and message; the message only if it doesn't stand above already."""
    if attempt.failure is None:
        return Text()
    counted = " (counts towards backoffLimit)" if attempt.counted else ""
    message = "" if attempt.failure == shown else " ".join(attempt.failure.message.split())
    return plain(f"{attempt.failure.reason}{counted}" + (f": {message}" if message else ""))


def _conditions(given: Description) -> Table | None:
    conditions = given.job.status.conditions
    if not conditions:
        return None
    status = given.job.status
    told = {status.message, status.last_failure.message if status.last_failure else ""}
    table = _table("type", "is", "since", "reason")
    for condition in conditions:
        shade = "red" if BAD_IF.get(condition.type) == condition.status else STATUS_SHADES[condition.status]
        reason = plain(condition.reason)
        if shade != "dim" and condition.message not in told:
            reason.append_text(plain(f": {' '.join(condition.message.split())}"))
        since = age(condition.last_transition_time, given.now)
        table.add_row(Text(condition.type, style=shade), Text(condition.status, style=shade), since, reason)
    return table


def _events(given: Description) -> Table | None:
    if not given.events:
        return None
    table = _table("ago", "reason", "message")
    for event in given.events[-SHOWN_EVENTS:]:
        often = f" (x{event.count})" if event.count > 1 else ""
        reason = Text(f"{event.reason}{often}", style="yellow" if event.type == "Warning" else "")
        table.add_row(age(event.time, given.now), reason, plain(event.message))
    return table


def _advice(given: Description) -> Group:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for step in next_steps(given.job, given.now):
        table.add_row("-", _with_code(step))
    return Group(table)


def _with_code(text: str) -> Text:
    """A sentence with what stands in backticks in bold."""
    line = Text()
    for place, part in enumerate(text.split("`")):
        line.append_text(plain(part)) if place % 2 == 0 else line.append(part, style="bold")
    return line


def _table(*titles: str) -> Table:
    """A table without lines; the last column takes what is left."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title in titles[:-1]:
        table.add_column(title, no_wrap=True)
    table.add_column(titles[-1], overflow="fold")
    return table
