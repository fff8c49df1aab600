"""The bodies as YAML, to be read and compared. SEMIRES_WRITE_GOLDEN=1 writes them again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from semires_operator.backends import build_child
from semires_operator.backends.preflight_job import build_preflight
from semires_operator.launch import Launch
from semires_operator.settings import Settings

GOLDEN = Path(__file__).parent / "golden"
SAMPLES = ("smallest", "four-gpus", "two-nodes", "all-pod-fields", "cpu")


@pytest.mark.parametrize("name", SAMPLES)
def test_bodies_are_as_they_were_read(name: str, samples: dict[str, Launch], settings: Settings) -> None:
    bodies = [build_preflight(samples[name], settings), build_child(samples[name], settings)]
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("SEMIRES_WRITE_GOLDEN"):
        path.write_text(yaml.dump_all(bodies, Dumper=WithoutAliases, sort_keys=False, width=120))

    assert list(yaml.safe_load_all(path.read_text())) == bodies


def test_there_is_a_golden_file_for_every_sample(samples: dict[str, Launch]) -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == samples.keys() == set(SAMPLES)


class WithoutAliases(yaml.SafeDumper):
    """What occurs twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never a reference."""
        return True
