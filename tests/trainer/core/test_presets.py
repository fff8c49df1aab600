"""Every preset through a whole run: it ends with figures, its record tells the preset, its losses are its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.config import HYPERPARAMETERS, parse_job
from semires_trainer.metrics_log import read_records, series
from semires_trainer.results import read_results
from semires_trainer.run import run_here

Ran = Callable[[str], Path]

OFFICIAL = ["OfficialCPI", "OfficialIOM"]
OWN = [row for row in HYPERPARAMETERS if row.paper != row.official_cpi or row.paper != row.official_iom]
"""The rows in which presets differ."""


@pytest.fixture(scope="module")
def ran(data: Path, tmp_path_factory: pytest.TempPathFactory, harness: ModuleType) -> Ran:
    """The output of a run of a preset, made once; the harness sets none of the rows in which presets differ."""
    outputs: dict[str, Path] = {}

    def run_once(preset: str) -> Path:
        if preset not in outputs:
            output = outputs[preset] = tmp_path_factory.mktemp(preset) / "out"
            document = harness.document_of(data, output, preset=preset, logIntervalSteps=1)
            del document["spec"]["training"]["emaDecay"]
            run_here(parse_job(document))
        return outputs[preset]

    return run_once


def recorded(output: Path, path: str) -> Any:
    """The value in run.json of a path of the manifest, such as training.lrHorizon."""
    value = json.loads((output / "run.json").read_text())["resolved"]
    for key in path.split("."):
        value = value["".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)]
    return value


def losses(output: Path) -> list[float]:
    return series(read_records(output / "metrics.jsonl"), "train/loss")[1]


@pytest.mark.parametrize("preset", OFFICIAL)
def test_a_run_of_a_preset_ends_with_finite_figures(ran: Ran, preset: str) -> None:
    scores = read_results(ran(preset) / "results.json").scores

    assert len(scores) == 2 * 2 * 2
    assert all(math.isfinite(figure) for score in scores for figure in score.figures())


@pytest.mark.parametrize("preset", OFFICIAL)
@pytest.mark.parametrize("row", [pytest.param(row, id=row.path) for row in OWN])
def test_the_record_of_a_run_tells_the_values_of_the_preset(ran: Ran, row: Any, preset: str) -> None:
    wanted = row.value(preset)

    assert str(recorded(ran(preset), row.path)) in {str(wanted), f"{wanted}.0"}


@pytest.mark.parametrize("preset", OFFICIAL)
def test_the_losses_of_a_preset_are_not_those_of_the_paper(ran: Ran, preset: str) -> None:
    official, paper = losses(ran(preset)), losses(ran("Paper"))

    assert len(official) == len(paper) > 0
    assert all(math.isfinite(loss) for loss in official)
    assert official[0] != pytest.approx(paper[0], rel=1e-3)
