"""The two ways to remove the operator that docs/install.md gives, run as they stand on a real API server."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.api_cluster import ApiCluster

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "install.md").read_text(encoding="utf-8").partition("## Remove\n")[2]
ALONE, EVERYTHING = (block.splitlines() for block in re.findall(r"^```bash\n(.*?)^```$", GUIDE, re.M | re.S))
JOB = "semiresjob.semires.dev/refcoco-1pct"


@pytest.fixture
def installed(own_api_cluster: ApiCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiCluster]:
    """A cluster with the operator and a job; afterwards the definition is there again, as other tests expect."""
    monkeypatch.chdir(ROOT)
    own_api_cluster.kubectl("apply", "--server-side", "--force-conflicts", "-k", "manifests/overlays/cluster")
    own_api_cluster.crds()
    own_api_cluster.kubectl("apply", "-f", "manifests/examples/smallest.yaml")
    yield own_api_cluster
    own_api_cluster.crds()


def run(cluster: ApiCluster, lines: list[str]) -> None:
    for line in lines:
        _, *words = shlex.split(line)
        cluster.kubectl(*words)


def found(cluster: ApiCluster, *words: str) -> list[str]:
    return cluster.kubectl("get", "--ignore-not-found", "-o", "name", *words).split()


def test_the_operator_goes_and_jobs_stay(installed: ApiCluster) -> None:
    run(installed, ALONE)

    assert JOB in found(installed, "semiresjobs")
    assert found(installed, "namespace/semires-system", "clusterrole/semires-operator") == []
    assert found(installed, "clusterrole/semires-edit") != []


def test_everything_goes(installed: ApiCluster) -> None:
    run(installed, EVERYTHING)

    assert found(installed, "crd/semiresjobs.semires.dev", "namespace/semires-system") == []
    assert found(installed, "clusterrole/semires-operator", "clusterrole/semires-edit") == []
