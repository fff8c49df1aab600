"""The trainer's JSON lines as people read them on a terminal. Pure; what is no JSON stays as it is."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from semires_operator.cli.words import lines_of, plain
from semires_operator.client.logs import record_of
from semires_operator.client.model import clean, time_of
from semires_trainer.eta import format_seconds
from semires_trainer.sinks import Position, plural
from semires_trainer.sinks import describe as describe_position

SHADES = {"warning": "yellow", "error": "red", "critical": "red"}
POSITION_FIELDS = frozenset(
    {"stage", "done", "total", "unit", "elapsed_seconds", "run_fraction", "samples_per_second", "remaining_seconds"}
)
HEAD_FIELDS = frozenset({"time", "level", "event", "job", "attempt", "rank"})


def render_line(text: str, zone: datetime.tzinfo | None = None) -> Text:
    """One line of a log, with the time of day in `zone` (None: that of this machine); tracebacks take several."""
    record = record_of(text)
    if not record:
        return plain(text)
    rank = record.get("rank")
    line = Text.assemble((_clock(record.get("time"), zone), "dim"), " ")
    if isinstance(rank, int) and rank > 0:
        line.append(f"[rank {rank}] ", style="dim")
    line.append_text(_said(record))
    for inner in lines_of(str(record.get("traceback") or "")):
        line.append(f"\n         {inner}", style="dim")
    return line


def _said(record: Mapping[str, Any]) -> Text:
    event = str(record.get("event", ""))
    if event in {"progress", "stage_begin", "stage_end"} and is_position(record):
        return _position_text(event, record)
    shade = SHADES.get(str(record.get("level", "")), "")
    message = " ".join(lines_of(str(record.get("message", event))))
    if event == "outcome" and not shade:
        shade = "green"
    return Text(message, style=shade)


def is_position(record: Mapping[str, Any]) -> bool:
    """Whether a record tells where a stage is."""
    counts = (record.get("done"), record.get("total"), record.get("elapsed_seconds"), record.get("run_fraction"))
    return isinstance(record.get("stage"), str) and all(_float(count) is not None for count in counts)


def _position_text(event: str, record: Mapping[str, Any]) -> Text:
    values = {name: value for name, value in record.items() if name not in POSITION_FIELDS | HEAD_FIELDS}
    position = Position(
        stage=clean(str(record["stage"])),
        done=int(record["done"]),
        total=int(record["total"]),
        unit=clean(str(record.get("unit", "step"))),
        values={clean(name): clean(value) if isinstance(value, str) else value for name, value in values.items()},
        samples_per_second=_float(record.get("samples_per_second")),
        fraction=float(record["run_fraction"]),
        remaining_seconds=_float(record.get("remaining_seconds")),
        elapsed_seconds=float(record["elapsed_seconds"]),
    )
    if event == "stage_begin":
        return Text.assemble("▶ ", (position.stage, "bold"), f": {position.total} {plural(position.unit)}")
    if event == "stage_end":
        return _stage_end(position)
    share = f"{100 * position.fraction:3.0f} %"
    return Text.assemble((share, "blue"), "  ", (position.stage, "bold"), f"  {describe_position(position)}")


def _stage_end(position: Position) -> Text:
    """As a run on a terminal leaves it."""
    mark, shade = ("✓", "green") if position.done >= position.total else ("■", "yellow")
    units = f"{position.done}/{position.total} {plural(position.unit)}"
    took = format_seconds(position.elapsed_seconds)
    return Text.assemble((mark, shade), " ", (position.stage, "bold"), f": {units} in {took}")


def _clock(value: object, zone: datetime.tzinfo | None) -> str:
    try:
        found = time_of(value)
    except ValueError:
        found = None
    return found.astimezone(zone).strftime("%H:%M:%S") if found is not None else "        "


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e15 else None
