"""Logged values of a run: `metrics.jsonl` (one object a line, resumable) and TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from semires_trainer import atomic

logger = logging.getLogger(__name__)


class _SummaryWriter(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...
    def flush(self) -> Any: ...
    def close(self) -> Any: ...


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a metrics file in order; a torn last line, left by a killed process, is dropped.

    Absent file: none.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number != len(lines) - 1:
                raise
    return records


def truncate_after(path: Path, step: int) -> None:
    """Drop the records beyond `step`: a resumed run repeats these steps and would log them twice."""
    kept = [record for record in read_records(path) if record["step"] <= step]
    atomic.write_text(path, "".join(_line(record) for record in kept))


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


class MetricsLog:
    """Appends values by step; `step` counts optimizer steps of the whole run (burn-in and mutual learning
    together).
    """

    def __init__(self, output: Path, *, resume_step: int = 0, tensorboard: bool = True) -> None:
        """Open `<output>/metrics.jsonl` and `<output>/events`, without what was logged beyond `resume_step`
        (0: a fresh run).
        """
        output.mkdir(parents=True, exist_ok=True)
        self.path = output / "metrics.jsonl"
        truncate_after(self.path, resume_step if resume_step > 0 else -1)
        self._handle = self.path.open("a", encoding="utf-8")
        self._writer = _open_writer(output / "events", resume_step) if tensorboard else None
        self._failed = False

    def log(self, step: int, values: Mapping[str, float], *, stage: str = "") -> None:
        """Append one record. Values that are not finite become null in the file: NaN is not JSON."""
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        with self._surviving():
            self._handle.write(_line({"time": round(time.time(), 3), "step": step, "stage": stage, **finite}))
            self._handle.flush()
        with self._surviving():
            if self._writer is not None:
                for name, value in numbers.items():
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both."""
        with self._surviving():
            self._handle.close()
        with self._surviving():
            if self._writer is not None:
                self._writer.flush()
                self._writer.close()

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        """A disk that is full ends no training: said once. What the file lacks is written as soon as there is room."""
        try:
            yield
        except OSError as error:
            if not self._failed:
                logger.warning("The run goes on, but %s and events/ are not written: %s.", self.path, error)
            self._failed = True


def _open_writer(folder: Path, resume_step: int) -> _SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter  # slow to import: only a run that logs pays for it

    purge_step = resume_step + 1 if resume_step > 0 else None
    writer: _SummaryWriter = SummaryWriter(str(folder), purge_step=purge_step)
    return writer


def series(records: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where it was logged and finite."""
    points = [(int(r["step"]), float(r[name])) for r in records if r.get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]
