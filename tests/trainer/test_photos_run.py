"""The guide to one's own data is followed to the end: its manifest, on the photos, with a network of minutes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from semires_trainer.results import read_results

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "custom-data.md").read_text(encoding="utf-8")
SMALLER: dict[str, Any] = {
    "model.dimensions": {"embedDim": 8, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 4},
    "model.textDimensions": {"hiddenSize": 32, "layers": 1, "heads": 2, "intermediateSize": 64, "maxPositions": 32},
    "model.imageSize": 64,
    "model.swin": "random",
    "model.bert": "random",
    "model.vocab": str(ROOT / "tests" / "data" / "bert-base-uncased-vocab.txt"),
    "training.burnInEpochs": 1,
    "training.epochs": 1,
    "training.device": "CPU",
}


@pytest.fixture(scope="module")
def ran(semires: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder in which the guide was followed, and what the run said."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "job.yaml").write_text(GUIDE.split("```yaml\n")[1].split("```")[0])
    overrides = [word for path, value in SMALLER.items() for word in ("--set", f"{path}={json.dumps(value)}")]
    return folder, semires("run", "job.yaml", *overrides, folder=folder)


def test_the_run_ends_and_prints_its_figures(ran: tuple[Path, Result]) -> None:
    _, result = ran

    assert result.exit_code == 0, result.output
    assert "SemiRES teacher" in result.stdout
    assert "Everything is in runs/photos" in result.stdout


def test_results_are_those_of_the_split_val(ran: tuple[Path, Result]) -> None:
    results = read_results(ran[0] / "runs" / "photos" / "results.json")

    assert results.splits() == ["val"]
    assert all(score.pairs > 0 for score in results.scores)


def test_overlays_are_drawn(ran: tuple[Path, Result]) -> None:
    drawn = sorted(path.name for path in (ran[0] / "runs" / "photos" / "overlays").iterdir())

    assert drawn[0] == "example-00.png"
    assert drawn[-1] == "sheet.png"


def test_the_model_predicts_on_a_photo(ran: tuple[Path, Result], semires: Callable[..., Result]) -> None:
    photo = ("--image", "examples/photos/images/dog.jpg", "--text", "the dog")

    result = semires("predict", "--checkpoint", "runs/photos/model", *photo, folder=ran[0])

    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["area", "confidence", "overlay"]
    assert (ran[0] / "dog.overlay.png").stat().st_size > 0
