"""A smallest manifest, and one way to ask what the program says about a changed one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semires_trainer.config import SemiRESJob, parse_job
from semires_trainer.errors import ConfigError

SMALLEST: dict[str, Any] = {
    "apiVersion": "semires.dev/v1alpha1",
    "kind": "SemiRESJob",
    "metadata": {"name": "small"},
    "spec": {
        "dataset": {
            "name": "RefCOCO",
            "annotations": "data/refer",
            "images": "data/images",
            "labeled": {"percent": "1"},
        },
        "proposals": {"generator": "Felzenszwalb"},
        "output": "out",
    },
}

YAML = """\
apiVersion: semires.dev/v1alpha1
kind: SemiRESJob
metadata: {name: small}
spec:
  dataset:
    name: RefCOCO
    annotations: data/refer
    images: data/images
    labeled: {percent: "1"}
  proposals: {generator: Felzenszwalb}
  output: out
"""


@pytest.fixture
def document() -> Callable[..., dict[str, Any]]:
    """The smallest manifest with changes {"spec.training.epochs": 3}; None takes a key away."""

    def build(changes: dict[str, Any] | None = None) -> dict[str, Any]:
        result = copy.deepcopy(SMALLEST)
        for path, value in (changes or {}).items():
            *parents, last = path.split(".")
            place = result
            for key in parents:
                place = place.setdefault(key, {})
            if value is None:
                place.pop(last)
            else:
                place[last] = value
        return result

    return build


@pytest.fixture
def job(document: Callable[..., dict[str, Any]]) -> Callable[..., SemiRESJob]:
    """The checked job of the smallest manifest with changes."""
    return lambda changes=None: parse_job(document(changes))


@pytest.fixture
def complaint(document: Callable[..., dict[str, Any]]) -> Callable[..., str]:
    """The one line said about the smallest manifest with changes."""

    def complain(changes: dict[str, Any]) -> str:
        with pytest.raises(ConfigError) as caught:
            parse_job(document(changes))
        return str(caught.value)

    return complain


@pytest.fixture
def manifest_text() -> str:
    """The smallest manifest as YAML."""
    return YAML


@pytest.fixture
def manifest_file(tmp_path: Path) -> Callable[[str], Path]:
    """Writes text to a file and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
