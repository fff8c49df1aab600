"""How long the rest of a run will take: pure arithmetic on measured speeds, with the clock passed in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

HALF_LIFE_SECONDS = 120.0
"""Measurements this old count half: the estimate follows a machine that becomes slower or faster."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """Work of one kind: all units of one name, even when they are done in several turns (evaluation after
    each epoch).
    """

    name: str
    """What the work is called, such as 'burn-in' or 'evaluate'."""
    units: int
    """Units expected over the whole run (steps, images, batches); at least 0."""
    seconds_per_unit: float = 1.0
    """A guess that only matters relative to the other phases, and only until the phase itself is measured."""


@dataclasses.dataclass
class _Measured:
    phase: Phase
    done: int = 0
    units: float = 0.0
    seconds: float = 0.0
    warmup: float | None = None

    def add(self, units: int, seconds: float) -> None:
        """Count `units` done in `seconds`; the first ones (compilation, opening files) are forgotten once
        others are known.
        """
        self.done += units
        if self.warmup is None:
            self.warmup = seconds / units
            return
        decay = 0.5 ** (seconds / HALF_LIFE_SECONDS)
        self.units = self.units * decay + units
        self.seconds = self.seconds * decay + seconds

    def rate(self) -> float | None:
        """Measured seconds per unit, None before the first unit."""
        return self.seconds / self.units if self.units else self.warmup

    def remaining(self) -> int:
        return max(0, self.phase.units - self.done)


class EtaEstimator:
    """Estimates the time left from what was measured in each phase.

    A phase not yet begun costs its guess times the mean ratio of measured to guessed speed of the phases
    already measured, so that a machine ten times slower than assumed is slower everywhere. Nothing measured:
    no estimate.
    """

    def __init__(self, phases: Sequence[Phase] = ()) -> None:
        self._phases = {phase.name: _Measured(phase) for phase in phases}

    def expect(self, name: str, units: int) -> None:
        """Announce that `name` has at least `units` units in all; a phase that was not planned is added."""
        known = self._phases.get(name)
        if known is None:
            self._phases[name] = _Measured(Phase(name=name, units=units))
        elif units > known.phase.units:
            known.phase = dataclasses.replace(known.phase, units=units)

    def done(self, name: str) -> int:
        """Units of `name` done so far, in all its turns."""
        return self._phases[name].done if name in self._phases else 0

    def skip(self, name: str, units: int) -> None:
        """Count `units` as done without a measurement: done before a resume, or found in a store."""
        if units > 0:
            self.expect(name, self.done(name) + units)
            self._phases[name].done += units

    def add(self, name: str, units: int, seconds: float) -> None:
        """Count `units` (at least 1) of `name` as done in `seconds`."""
        self.expect(name, self.done(name) + units)
        self._phases[name].add(units, seconds)

    def remaining_seconds(self) -> float | None:
        """Seconds until everything expected is done; None while nothing has been measured."""
        calibration = self._calibration()
        if calibration is None:
            return None
        return sum(m.remaining() * self._cost(m, calibration) for m in self._phases.values())

    def fraction_done(self) -> float:
        """Share of the whole run's time that is done, 0 to 1, by the speeds known now."""
        calibration = self._calibration() or 1.0
        total = sum((m.done + m.remaining()) * self._cost(m, calibration) for m in self._phases.values())
        done = sum(m.done * self._cost(m, calibration) for m in self._phases.values())
        return done / total if total > 0 else 0.0

    def _calibration(self) -> float | None:
        rates = [(m.rate(), m.phase.seconds_per_unit) for m in self._phases.values()]
        ratios = [rate / guess for rate, guess in rates if rate is not None and guess > 0]
        return sum(ratios) / len(ratios) if ratios else None

    @staticmethod
    def _cost(measured: _Measured, calibration: float) -> float:
        rate = measured.rate()
        return measured.phase.seconds_per_unit * calibration if rate is None else rate


def format_seconds(seconds: float | None) -> str:
    """`seconds` as people say it: 8s, 4m10s, 3h05m, 2d04h; '?' when unknown."""
    if seconds is None:
        return "?"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
