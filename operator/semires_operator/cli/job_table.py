"""`semires list`: one line a job, the columns of kubectl; a narrow terminal shows the most important ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from semires_operator.cli.words import age, phase_text, plain
from semires_operator.client.model import Job

GAP = 3
LONGEST_MESSAGE = 80
UNKNOWN = "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of the table."""

    title: str
    cell: Callable[[Job, datetime], str | Text]
    rank: int
    """The higher it is, the earlier the column is left out; 0: never."""


def _display(name: str) -> Callable[[Job, datetime], str]:
    return lambda job, _: getattr(job.status.display, name) if job.status.display else ""


def _spec(*keys: str) -> Callable[[Job, datetime], str]:
    def cell(job: Job, _: datetime) -> str:
        place: object = job.spec
        for key in keys:
            place = place.get(key) if isinstance(place, dict) else None
        return "" if place is None else str(place)

    return cell


def _message(job: Job, _: datetime) -> str:
    text = " ".join(job.status.message.split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 1]}…"


NAMESPACE = Column(title="NAMESPACE", cell=lambda job, _: job.namespace, rank=0)
COLUMNS = (
    Column(title="NAME", cell=lambda job, _: job.name, rank=0),
    Column(title="PHASE", cell=lambda job, _: phase_text(job.status.phase), rank=0),
    Column(title="STAGE", cell=lambda job, _: job.status.progress.stage if job.status.progress else "", rank=4),
    Column(title="EPOCH", cell=_display("epoch"), rank=5),
    Column(title="PROGRESS", cell=_display("progress"), rank=1),
    Column(title="ETA", cell=_display("eta"), rank=2),
    Column(title="OIOU", cell=_display("overall_iou"), rank=3),
    Column(title="ATTEMPT", cell=lambda job, _: str(job.status.attempt) if job.status.attempt else "", rank=7),
    Column(title="AGE", cell=lambda job, now: age(job.created, now), rank=6),
)
WIDE = (
    Column(title="DATASET", cell=_spec("dataset", "name"), rank=10),
    Column(title="LABELED", cell=_display("labeled"), rank=11),
    Column(title="REFINE", cell=_display("refine"), rank=12),
    Column(title="PYTORCHJOB", cell=lambda job, _: job.status.child, rank=14),
    Column(title="QUEUE", cell=_spec("queue"), rank=13),
    Column(title="MESSAGE", cell=_message, rank=8),
)


def job_lines(
    jobs: Sequence[Job], now: datetime, *, wide: bool = False, namespaces: bool = False, width: int | None = None
) -> list[Text]:
    """The lines of the table, heading first, at most `width` characters each; None: as long as they are."""
    columns = [*([NAMESPACE] if namespaces else []), *COLUMNS, *(WIDE if wide else ())]
    cells = {column.title: _cells(column, jobs, now) for column in columns}
    widths = {title: max(map(len, found)) for title, found in cells.items()}
    kept = _fitting(columns, widths, width)
    lines = []
    for row in range(len(jobs) + 1):
        line = Text(style="bold" if row == 0 else "")
        for column in kept:
            cell = cells[column.title][row].copy()
            if column is not kept[-1]:
                cell.pad_right(widths[column.title] - len(cell) + GAP)
            line.append_text(cell)
        if width is not None:
            line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def _cells(column: Column, jobs: Iterable[Job], now: datetime) -> list[Text]:
    """The heading, and the cell of each job."""
    found = [column.cell(job, now) for job in jobs]
    return [Text(column.title), *(cell if isinstance(cell, Text) else plain(cell or UNKNOWN) for cell in found)]


def _fitting(columns: Sequence[Column], widths: dict[str, int], width: int | None) -> list[Column]:
    """The columns that have room."""
    kept = list(columns)
    while width is not None and sum(widths[column.title] + GAP for column in kept) - GAP > width:
        least = max(kept, key=lambda column: column.rank)
        if least.rank == 0:
            break
        kept.remove(least)
    return kept
