"""Shades and short forms that the commands share. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from rich.text import Text

from semires_operator import display
from semires_operator.client.model import clean

PHASE_SHADES = {
    "Pending": "yellow",
    "Queued": "yellow",
    "Preflight": "cyan",
    "Running": "blue",
    "Stopping": "yellow",
    "Suspended": "magenta",
    "Retrying": "yellow",
    "Succeeded": "green",
    "Failed": "red",
}
EVEN = re.compile("(?<=[a-z])00[a-z]$")
BLOCKS, PLAIN_BLOCKS = ("█", "░"), ("#", "-")


def phase_text(phase: str) -> Text:
    """A phase in its colour."""
    return Text(phase, style=PHASE_SHADES.get(phase, ""))


def plain(value: object) -> Text:
    """Text of the cluster as it is: no markup, no control characters."""
    return Text(clean(str(value)))


def age(since: datetime | None, now: datetime) -> str:
    """How long ago; empty if it never was."""
    return duration((now - since).total_seconds()) if since is not None else ""


def duration(seconds: float) -> str:
    """12s, 12m, 5h, 2h10m."""
    return EVEN.sub("", display.duration(max(0, round(seconds))))


def bar(percent: float, *, width: int, blocks: tuple[str, str] = BLOCKS) -> Text:
    """A progress bar."""
    full = round(width * min(max(percent, 0), 100) / 100)
    return Text.assemble((blocks[0] * full, "blue"), (blocks[1] * (width - full), "dim"))


def number(value: Any) -> str:
    """A number as people read it: 5,120; 0.412; what is none, as it is."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return str(value)
    if found == int(found) and abs(found) < 1e15:
        return f"{int(found):,}"
    return f"{found:.4g}"


def lines_of(text: str) -> list[str]:
    """Lines without empty ones at the end."""
    return clean(text).rstrip().splitlines()
