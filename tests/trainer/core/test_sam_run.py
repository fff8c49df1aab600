"""A whole run with SAM's masks: a file of ViT-B's real format and size, random weights, a coarse grid of points."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from segment_anything import sam_model_registry

from semires_trainer.config import parse_job, resolve
from semires_trainer.data.synthetic import SyntheticConfig, write_synthetic
from semires_trainer.launch import run
from semires_trainer.plan import build_plan
from semires_trainer.results import read_results

pytestmark = pytest.mark.long

IMAGES = 3


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory, harness: ModuleType) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sam")
    write_synthetic(folder / "data", SyntheticConfig(images=IMAGES, evaluation_images=1, size=64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(sam_model_registry["vit_b"]().state_dict(), folder / "sam_vit_b.pth")
    weights = {
        "weights": str(folder / "sam_vit_b.pth"),
        "sha256": hashlib.sha256((folder / "sam_vit_b.pth").read_bytes()).hexdigest(),
    }
    grid = {"model": "ViTB", "pointsPerSide": 2, "predIouThreshold": "0", "stabilityScoreThreshold": "0"}
    document = harness.document_of(folder / "data", folder / "out", burnInBatch=2, batch={"labeled": 2, "unlabeled": 2})
    document["spec"]["dataset"]["labeled"] = {"percent": "67"}
    document["spec"]["proposals"] = {"generator": "SAM", "sam": {**weights, **grid}}
    return dict(document)


@pytest.fixture(scope="module")
def output(document: dict[str, Any]) -> Path:
    run(parse_job(document))
    return Path(document["spec"]["output"])


def test_a_run_with_sam_ends_with_figures(output: Path) -> None:
    assert {score.model for score in read_results(output / "results.json").scores} == {"burn-in", "teacher"}


def test_every_training_picture_has_its_masks(document: dict[str, Any], output: Path) -> None:
    proposals = build_plan(resolve(parse_job(document))).proposals

    assert proposals is not None
    assert (proposals.generator, proposals.images, proposals.cached) == ("SAM", IMAGES, IMAGES)
    assert proposals.oracle_mean_iou is not None


def test_a_second_start_makes_no_masks(document: dict[str, Any], output: Path) -> None:
    shards = {path: path.stat().st_mtime_ns for path in (output / "proposals").rglob("*") if path.is_file()}

    run(parse_job(document))

    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert {path for path in (output / "proposals").rglob("*") if path.is_file()} == set(shards)
