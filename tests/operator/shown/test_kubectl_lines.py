"""The kubectl lines of the README, run as they stand on a real API server."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from testbed import programs
from testbed.api_cluster import ApiCluster

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = re.findall(r"^kubectl .*$", README, re.MULTILINE)


@pytest.fixture(scope="module")
def answers(own_api_cluster: ApiCluster) -> dict[str, str]:
    """Line -> what it printed."""
    own_api_cluster.crds()
    environment = {**os.environ, "KUBECONFIG": str(own_api_cluster.kubeconfig)}
    folder = f"{programs.KUBECTL.path.parent}{os.pathsep}{os.environ['PATH']}"
    return {line: run(shlex.split(line, comments=True), {**environment, "PATH": folder}) for line in LINES}


def run(words: list[str], environment: dict[str, str]) -> str:
    result = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        pytest.param("kubectl apply --server-side -k manifests/overlays/cluster", "deployment.apps/semires-operator"),
        pytest.param(
            "kubectl create secret generic s3-credentials "
            "--from-literal=AWS_ACCESS_KEY_ID=… --from-literal=AWS_SECRET_ACCESS_KEY=…",
            "secret/s3-credentials created",
        ),
        pytest.param(
            "kubectl apply -f manifests/examples/smallest.yaml", "semiresjob.semires.dev/refcoco-1pct created"
        ),
        pytest.param("kubectl get srj", "refcoco-1pct"),
    ],
)
def test_a_line_of_the_readme_does_what_it_says(answers: dict[str, str], line: str, printed: str) -> None:
    (answer,) = [text for shown, text in answers.items() if shlex.split(shown, comments=True) == shlex.split(line)]

    assert printed in answer


def test_there_are_no_other_lines(answers: dict[str, str]) -> None:
    assert len(answers) == len(LINES) == 4
