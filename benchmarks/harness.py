"""Timing of two ways to do the same thing, in one process, in interleaved rounds; the answer is a ratio.

Check that both sides give the same output before timing them. Rounds alternate A, B, A, B so that a slow
moment of the machine meets both; the median round decides, the fastest is reported beside it.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "examples" / "quickstart.yaml"
PROGRAM = (sys.executable, "-m", "semires_trainer")
"""The program, to be run in `environment()`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Times per call or item, in milliseconds, of ours against a peer."""

    rounds: int
    ours_ms: float
    """Median over rounds."""
    peer_ms: float
    """Median over rounds."""
    ours_min_ms: float
    peer_min_ms: float
    ratio: float
    """Median of the per-round ratios peer / ours: above 1, ours is faster."""
    ratio_min: float
    """The worst round."""

    def row(self, name: str, **details: Any) -> str:
        """One line of JSON for the benchmark table; `details` say what was compared."""
        return json.dumps({"benchmark": name, **_rounded(asdict(self)), **details, "machine": machine()})


def interleave(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    rounds: int = 7,
    repeat: int = 1,
    items: int = 1,
    settle: Callable[[], object] = gc.collect,
) -> Comparison:
    """Time `ours` and `peer` in alternating rounds after one untimed call each; a round is `repeat` calls.

    Times are per item, where a call does `items` of them. `settle` ends, before the clock starts, what an earlier call
    left under way.
    """
    ours()
    settle()
    peer()
    pairs = [(_time(ours, repeat, settle) / items, _time(peer, repeat, settle) / items) for _ in range(rounds)]
    ours_ms, peer_ms = (list(times) for times in zip(*pairs, strict=True))
    ratios = [b / a for a, b in pairs]
    return Comparison(
        rounds=rounds,
        ours_ms=statistics.median(ours_ms),
        peer_ms=statistics.median(peer_ms),
        ours_min_ms=min(ours_ms),
        peer_min_ms=min(peer_ms),
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
    )


def environment() -> dict[str, str]:
    """The environment in which `PROGRAM` is this checkout's, whatever the folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "trainer")}


def settings(changes: Mapping[str, object]) -> list[str]:
    """`--set` options of the program."""
    return [word for path, value in changes.items() for word in ("--set", f"{path}={value}")]


def machine() -> dict[str, str]:
    """Processor and versions that a figure depends on."""
    import numpy
    import torch

    return {
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "threads": str(torch.get_num_threads()),
    }


def _time(call: Callable[[], object], repeat: int, settle: Callable[[], object]) -> float:
    """Milliseconds per call; the garbage of earlier rounds is collected before the clock starts."""
    settle()
    gc.collect()
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) * 1000 / repeat


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            names = [line.split(":", 1)[1].strip() for line in handle if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 3) for key, value in values.items()}
