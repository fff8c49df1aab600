"""The figures of a run: oIoU, mIoU and Pr@t per model, split and size; as `results.json`, as a table, as
markdown.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.table import Table

from semires_trainer import atomic
from semires_trainer.errors import DataError

SCHEMA_VERSION = 1
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
BURN_IN, TEACHER = "burn-in", "teacher"
TITLES = {BURN_IN: "supervised burn-in", TEACHER: "SemiRES teacher"}
ORIGINAL = "original"
"""Size of figures measured at each image's own size; other sizes are the side in pixels, such as '480'."""


class Figures(Protocol):
    """What is read of `metrics.Metrics`; that module needs torch, a table does not."""

    @property
    def pairs(self) -> int:
        """Expressions evaluated."""

    @property
    def overall_iou(self) -> float:
        """oIoU in percent."""

    @property
    def mean_iou(self) -> float:
        """mIoU in percent."""

    @property
    def precision(self) -> tuple[float, ...]:
        """Pr@0.5 to Pr@0.9 in percent."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Figures of one model on one split at one size, in percent (algorithm.md 1.7)."""

    model: str
    """'burn-in' or 'teacher'."""
    split: str
    """Such as 'val', 'testA'."""
    size: str
    """Side in pixels of prediction and ground truth ('480'), or 'original'."""
    overall_iou: float
    """oIoU: sum of intersections over sum of unions."""
    mean_iou: float
    """mIoU: mean IoU over expressions; 0 where the union is empty."""
    precision: tuple[float, ...]
    """Share of expressions with IoU of at least 0.5, 0.6, 0.7, 0.8, 0.9."""
    pairs: int
    """Expressions evaluated."""

    @classmethod
    def of(cls, metrics: Figures, *, model: str, split: str, size: str) -> Score:
        """The score of `model` from what the evaluation returned."""
        return cls(
            model=model,
            split=split,
            size=size,
            overall_iou=metrics.overall_iou,
            mean_iou=metrics.mean_iou,
            precision=metrics.precision,
            pairs=metrics.pairs,
        )

    def figures(self) -> tuple[float, ...]:
        """The columns of a table, in the order of `COLUMNS`."""
        return (self.overall_iou, self.mean_iou, *self.precision)


COLUMNS = ("oIoU", "mIoU", *(f"Pr@{threshold}" for threshold in THRESHOLDS))
WIDE = 115
"""Characters that the table of all columns takes."""
NARROW_COLUMNS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """Everything a run reports at its end."""

    job: str
    scores: tuple[Score, ...]
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Facts beside the figures that JSON can hold: best epoch, steps, seconds, share of corrections that
    helped.
    """

    def find(self, model: str, split: str, size: str) -> Score | None:
        """The score of this model, split and size, None if it was not evaluated."""
        wanted = (model, split, size)
        return next((s for s in self.scores if (s.model, s.split, s.size) == wanted), None)

    def splits(self) -> list[str]:
        """Splits in the order they were evaluated."""
        return list(dict.fromkeys(score.split for score in self.scores))

    def sizes(self) -> list[str]:
        """Sizes in the order they were evaluated."""
        return list(dict.fromkeys(score.size for score in self.scores))

    def models(self) -> list[str]:
        """Models in the order they were evaluated."""
        return list(dict.fromkeys(score.model for score in self.scores))

    def to_json(self) -> dict[str, Any]:
        """The object of `results.json`."""
        scores = [_score_to_json(score) for score in self.scores]
        return {
            "schemaVersion": SCHEMA_VERSION,
            "job": self.job,
            "scores": scores,
            "details": dict(self.details),
        }


def _score_to_json(score: Score) -> dict[str, Any]:
    head = {"model": score.model, "split": score.split, "size": score.size}
    return {
        **head,
        **dict(zip(COLUMNS, score.figures(), strict=True)),
        "expressions": score.pairs,
    }


def _score_from_json(value: Mapping[str, Any]) -> Score:
    return Score(
        model=str(value["model"]),
        split=str(value["split"]),
        size=str(value["size"]),
        overall_iou=float(value["oIoU"]),
        mean_iou=float(value["mIoU"]),
        precision=tuple(float(value[column]) for column in COLUMNS[2:]),
        pairs=int(value["expressions"]),
    )


def write_results(path: Path, results: Results) -> None:
    """Write `results.json`, atomically."""
    atomic.write_json(path, results.to_json())


def read_results(path: Path) -> Results:
    """Read `results.json`.

    Raises:
        DataError: the file is missing, not JSON, or of another schema version.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["schemaVersion"] != SCHEMA_VERSION:
            raise DataError(
                f"{path}: schemaVersion is {value['schemaVersion']}, this version reads {SCHEMA_VERSION}",
                remedy="Read it with the version of semires that wrote it.",
            )
        scores = tuple(_score_from_json(score) for score in value["scores"])
        return Results(job=str(value["job"]), scores=scores, details=dict(value["details"]))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", remedy="Give the results.json of a finished run.") from error
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path}: not a results file ({type(error).__name__}: {error})"
        raise DataError(message, remedy="Give the results.json that a run wrote.") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a results table; figures in percent, `pairs` None for the line of
    differences.
    """

    title: str
    split: str
    size: str
    figures: tuple[float, ...]
    pairs: int | None


def rows(results: Results, *, sizes: Sequence[str] | None = None) -> list[list[Row]]:
    """Groups of lines, one per split and size: each model, then teacher minus burn-in if both are there."""
    groups: list[list[Row]] = []
    for size in sizes if sizes is not None else results.sizes():
        for split in results.splits():
            scores = [s for s in (results.find(m, split, size) for m in results.models()) if s is not None]
            if scores:
                groups.append([*(_row(score) for score in scores), *_difference(scores)])
    return groups


def _row(score: Score) -> Row:
    title = TITLES.get(score.model, score.model)
    return Row(title=title, split=score.split, size=score.size, figures=score.figures(), pairs=score.pairs)


def _difference(scores: Iterable[Score]) -> list[Row]:
    by_model = {score.model: score for score in scores}
    if BURN_IN not in by_model or TEACHER not in by_model:
        return []
    before, after = by_model[BURN_IN], by_model[TEACHER]
    gains = tuple(b - a for a, b in zip(before.figures(), after.figures(), strict=True))
    return [Row(title="difference", split=after.split, size=after.size, figures=gains, pairs=None)]


def _cells(row: Row) -> list[str]:
    shape = "{:+.2f}" if row.pairs is None else "{:.2f}"
    return [shape.format(figure) for figure in row.figures]


def to_table(results: Results, *, title: str = "", width: int = WIDE) -> Table:
    """A rich table in percent, one section per split and size, gains green and losses red.

    Narrower than WIDE it shows oIoU, mIoU and Pr@0.5; results.json has them all.
    """
    shown = len(COLUMNS) if width >= WIDE else NARROW_COLUMNS
    table = Table(title=title or None, title_justify="left")
    for name in ("split", "size", "model"):
        table.add_column(name)
    for name in (*COLUMNS[:shown], "expressions"):
        table.add_column(name, justify="right")
    for group in rows(results):
        for index, row in enumerate(group):
            where = [row.split, _size_title(row.size)] if index == 0 else ["", ""]
            count = "" if row.pairs is None else f"{row.pairs:,}"
            cells = _cells(row) if row.pairs is not None else [_colored(c) for c in _cells(row)]
            table.add_row(*where, row.title, *cells[:shown], count, end_section=row is group[-1])
    return table


def _colored(cell: str) -> str:
    return f"[red]{cell}[/]" if cell.startswith("-") and float(cell) != 0 else f"[green]{cell}[/]"


def _size_title(size: str) -> str:
    return size if size == ORIGINAL else f"{size}²"


def to_markdown(results: Results, *, sizes: Sequence[str] | None = None) -> str:
    """The same table as markdown, in percent; `sizes` limits it."""
    header = ["split", "size", "model", *COLUMNS]
    rule = ["---", "---", "---", *("---:" for _ in COLUMNS)]
    lines = [header, rule]
    for group in rows(results, sizes=sizes):
        lines += [[row.split, _size_title(row.size), row.title, *_cells(row)] for row in group]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
