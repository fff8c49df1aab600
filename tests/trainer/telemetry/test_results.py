"""The figures of a run survive the file and read the same in every table."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from semires_trainer.errors import DataError
from semires_trainer.metrics import metrics_of
from semires_trainer.results import (
    BURN_IN,
    ORIGINAL,
    TEACHER,
    Results,
    Score,
    read_results,
    rows,
    to_markdown,
    to_table,
    write_results,
)


def score(model: str, oiou: float, *, split: str = "val", size: str = "480") -> Score:
    return Score(
        model=model,
        split=split,
        size=size,
        overall_iou=oiou,
        mean_iou=oiou + 1,
        precision=(60.0, 50.0, 40.0, 30.0, 20.0),
        pairs=1000,
    )


RESULTS = Results(
    job="j",
    scores=(
        score(BURN_IN, 30.0),
        score(TEACHER, 42.5),
        score(BURN_IN, 31.0, size=ORIGINAL),
        score(TEACHER, 29.0, size=ORIGINAL),
    ),
    details={"identity": "abc"},
)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", RESULTS)

    assert read_results(tmp_path / "results.json") == RESULTS


def test_the_file_uses_the_papers_names() -> None:
    first = RESULTS.to_json()["scores"][0]

    assert list(first) == [
        *("model", "split", "size", "oIoU", "mIoU", "Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9", "expressions")
    ]


def test_a_score_takes_its_figures_from_the_metrics() -> None:
    found = Score.of(metrics_of([5, 0], [10, 10]), model=TEACHER, split="val", size="480")

    assert found.figures() == (25.0, 25.0, 50.0, 0.0, 0.0, 0.0, 0.0)
    assert found.pairs == 2


def test_each_group_ends_with_the_teachers_gain() -> None:
    differences = [group[-1].figures[0] for group in rows(RESULTS)]

    assert differences == [12.5, -2.0]


def test_without_a_burn_in_model_there_is_no_difference() -> None:
    [group] = rows(Results(job="j", scores=(score(TEACHER, 40.0),)))

    assert [row.title for row in group] == ["SemiRES teacher"]


def test_the_terminal_table_shows_both_models_and_signed_differences() -> None:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(to_table(RESULTS))

    text = capture.get()

    assert all(part in text for part in ("supervised burn-in", "SemiRES teacher", "+12.50", "-2.00", "480²", "1,000"))


def test_markdown_has_one_line_a_row_and_can_be_limited_to_one_size() -> None:
    lines = to_markdown(RESULTS, sizes=["480"]).splitlines()

    assert lines[0].startswith("| split | size | model | oIoU |")
    assert lines[2].startswith("| val | 480² | supervised burn-in | 30.00 | 31.00 | 60.00 |")
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("{", "not a results file", id="not-json"),
        pytest.param({"schemaVersion": 1, "job": "j"}, "not a results file", id="without-scores"),
        pytest.param({"schemaVersion": 2}, "schemaVersion is 2", id="another-version"),
        pytest.param([], "not a results file", id="a-list"),
    ],
)
def test_a_file_that_holds_no_results_is_named(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))

    with pytest.raises(DataError, match=message) as caught:
        read_results(path)

    assert str(path) in str(caught.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"results\.json: No such file"):
        read_results(tmp_path / "results.json")


def test_a_narrow_terminal_gets_the_columns_that_fit() -> None:
    console = Console(width=80, record=True, file=io.StringIO())

    console.print(to_table(RESULTS, width=console.width))

    shown = console.export_text()
    assert "Pr@0.5" in shown
    assert "Pr@0.6" not in shown
    assert "…" not in shown
