"""A synthetic dataset of a few pictures, a manifest that trains on it, a random model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from semires_trainer.config import Resolved, parse_job, resolve
from semires_trainer.data.synthetic import SyntheticConfig, write_synthetic
from semires_trainer.models.build import build_model
from semires_trainer.models.deploy import ModelInfo, save_model


@pytest.fixture(autouse=True)
def plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wrapping and no colour, whatever terminal the tests run in."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("SEMIRES_DEBUG", raising=False)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset, shared: not to be written to."""
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    write_synthetic(folder, SyntheticConfig(images=8, evaluation_images=2, size=64))
    return folder


@pytest.fixture
def data(pristine: Path, tmp_path: Path) -> Path:
    """A dataset of one's own."""
    return Path(shutil.copytree(pristine, tmp_path / "data"))


def document_of(data: Path, output: Path) -> dict[str, Any]:
    """The smallest manifest that trains on `data`."""
    return {
        "apiVersion": "semires.dev/v1alpha1",
        "kind": "SemiRESJob",
        "metadata": {"name": "tiny"},
        "spec": {
            "dataset": {
                "name": "RefCOCO",
                "annotations": str(data),
                "images": str(data / "images"),
                "labeled": {"percent": "50"},
            },
            "proposals": {"generator": "Felzenszwalb"},
            "model": {
                "dimensions": {"embedDim": 8, "depths": [1, 1, 1, 1], "heads": [1, 1, 1, 1], "window": 2},
                "imageSize": 64,
                "swin": "random",
                "bert": "random",
                "vocab": str(data / "vocab.txt"),
                "textDimensions": {"hiddenSize": 8, "layers": 1, "heads": 1, "intermediateSize": 16},
            },
            "training": {"burnInEpochs": 2, "epochs": 3, "burnInBatch": 4, "batch": {"labeled": 2, "unlabeled": 4}},
            "output": str(output),
        },
    }


@pytest.fixture
def document(data: Path, tmp_path: Path) -> dict[str, Any]:
    return document_of(data, tmp_path / "out")


@pytest.fixture
def job(document: dict[str, Any], tmp_path: Path) -> Path:
    """The manifest as a file."""
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def resolved(document: dict[str, Any]) -> Resolved:
    return resolve(parse_job(document))


@pytest.fixture(scope="session")
def model_folder(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights that reads 8 tokens, shared."""
    folder = tmp_path_factory.mktemp("models")
    section = resolve(parse_job(document_of(pristine, folder))).model
    info = ModelInfo(image_size=64, max_tokens=8, vocab=pristine / "vocab.txt")
    with torch.random.fork_rng():
        save_model(folder / "model", build_model(section, seed=0), info)
    return folder / "model"
