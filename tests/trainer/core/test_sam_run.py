"""A whole run with Segment Anything: a file of the public format (ViT-B, random weights) on two pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import Result
from segment_anything import sam_model_registry

from semires_trainer.config import resolve
from semires_trainer.data.synthetic import SyntheticConfig, write_synthetic
from semires_trainer.manifest import load_manifest
from semires_trainer.proposals.build import build_key
from semires_trainer.proposals.store import ProposalStore

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

IMAGES = 2
POINTS_PER_SIDE = 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """358 MiB, as the public file, with random numbers in it."""
    path = tmp_path_factory.mktemp("weights") / "sam_vit_b.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(sam_model_registry["vit_b"]().state_dict(), path)
    return path


def sam_section(weights: Path) -> dict[str, Any]:
    """A coarse grid, and no mask of so poor a model left out."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return {
        **{"model": "ViTB", "weights": str(weights), "sha256": digest, "pointsPerSide": POINTS_PER_SIDE},
        **{"predIouThreshold": "0", "stabilityScoreThreshold": "0", "boxNmsThreshold": "1"},
    }


@pytest.fixture(scope="module")
def job(weights: Path, tmp_path_factory: pytest.TempPathFactory, harness: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("sam")
    write_synthetic(folder / "data", SyntheticConfig(images=IMAGES, evaluation_images=1, size=64))
    batches = {"burnInBatch": 2, "batch": {"labeled": 2, "unlabeled": 2}}
    document = harness.document_of(folder / "data", folder / "out", **batches)
    document["spec"]["proposals"] = {"sam": sam_section(weights), "store": str(folder / "store")}
    document["spec"]["dataset"]["evaluate"] = ["val"]
    (folder / "job.yaml").write_text(json.dumps(document))
    return folder / "job.yaml"


@pytest.fixture(scope="module")
def ran(job: Path, semires: Callable[..., Result]) -> Result:
    return semires("run", job)


def test_the_run_ends_with_figures(ran: Result, job: Path) -> None:
    assert ran.exit_code == 0, ran.output
    assert "SemiRES teacher" in ran.stdout
    assert f'"present": 0, "new": {IMAGES}' in ran.stderr


@pytest.mark.usefixtures("ran")
def test_the_store_holds_the_masks_of_every_point(job: Path) -> None:
    section = resolve(load_manifest(job)).proposals
    store = ProposalStore(Path(section.store), build_key(section))

    counts = [len(store.get(digest)) for digest in digests_of(job)]

    assert all(0 < count <= 3 * POINTS_PER_SIDE**2 for count in counts)


def digests_of(job: Path) -> list[str]:
    pictures = sorted((job.parent / "data" / "images").glob("train*"))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures]


@pytest.mark.usefixtures("ran")
def test_plan_then_finds_all_of_them(job: Path, semires: Callable[..., Result]) -> None:
    proposals = json.loads(semires("plan", job, "--json").stdout)["proposals"]

    assert (proposals["generator"], proposals["images"], proposals["cached"]) == ("SAM", IMAGES, IMAGES)
    assert proposals["oracle_refs"] > 0


@pytest.mark.usefixtures("ran")
def test_another_run_with_the_same_store_makes_none(job: Path, semires: Callable[..., Result], tmp_path: Path) -> None:
    result = semires("run", job, "--output", tmp_path / "again", "--set", "training.seed=1")

    assert result.exit_code == 0, result.output
    assert f'"present": {IMAGES}, "new": 0' in result.stderr
