"""Finds out that ranks hang: they are alive, and nothing moves. Pure: the caller brings the time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from semires_trainer.config import HealthPolicy
from semires_trainer.errors import ConfigError

STALLED_SECONDS, STARTUP_SECONDS = "SEMIRES_STALLED_SECONDS", "SEMIRES_STARTUP_SECONDS"
"""For machines of one's own; on a cluster `spec.healthPolicy` says it."""


@dataclass(kw_only=True)
class Watchdog:
    """Remembers when the run's beat moved last."""

    stalled_seconds: float
    """Longest time without a beat once the first step is done."""
    startup_seconds: float
    """The same before it: loading and compiling take longer than a step."""
    moved: float = 0.0
    """When the beat moved last."""
    beat: object = -1

    def look(self, *, beat: object, started: bool, now: float) -> float | None:
        """Seconds without a beat if they are too many, else None."""
        if beat != self.beat:
            self.beat, self.moved = beat, now
        silence = now - self.moved
        return silence if silence > (self.stalled_seconds if started else self.startup_seconds) else None


def watchdog_of(policy: HealthPolicy, environment: Mapping[str, str], *, now: float) -> Watchdog:
    """The limits of `spec.healthPolicy`, or of the environment."""
    return Watchdog(
        stalled_seconds=_seconds(environment, STALLED_SECONDS, policy.stalled_seconds),
        startup_seconds=_seconds(environment, STARTUP_SECONDS, policy.startup_seconds),
        moved=now,
    )


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "")
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise ConfigError(f"{text!r} is no number of seconds", field=name, remedy="Write for example 600")
    return seconds
