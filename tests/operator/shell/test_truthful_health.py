"""/healthz says when the program hangs, and /readyz what it waits for. No cluster is needed for that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from testbed.api_cluster import free_ports
from testbed.waiting import wait_until

from semires_operator import kube, server
from semires_operator.settings import Settings

NOWHERE = kube.Connection(server="https://127.0.0.1:9")
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def lonely(make_replica):
    """An operator without a cluster."""
    replica = make_replica(Settings(http_port=free_ports(1)[0]), NOWHERE)
    wait_until("it serves", lambda: replica.get("/healthz")[0], seconds=10)
    return replica


def test_without_a_cluster_it_is_alive_and_not_ready(lonely):
    assert lonely.get("/healthz")[0] == 200
    assert json.loads(lonely.get("/readyz")[1])["problems"] == ["no replica is known to lead"]
    assert "semires_operator_leader 0.0" in lonely.get("/metrics")[1]


def test_a_loop_that_hangs_is_told_while_it_hangs(lonely, monkeypatch):
    monkeypatch.setattr(server, "LONGEST_SILENCE", 1.5)
    lonely.loop.call_soon_threadsafe(time.sleep, 4)

    wait_until("it is unhealthy", lambda: lonely.get("/healthz")[0] == 503, seconds=3.5)
    wait_until("it is healthy again", lambda: lonely.get("/healthz")[0] == 200, seconds=10)


def run_program(**environment: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY / 'trainer'}", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "semires_operator"]
    return subprocess.run(command, env=paths | environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        pytest.param({"SEMIRES_OPERATOR_WORKER": "3"}, "Did you mean SEMIRES_OPERATOR_WORKERS?", id="setting"),
        pytest.param({"HOME": "/nowhere"}, "There is no cluster", id="no-cluster"),
        pytest.param(
            {"SEMIRES_OPERATOR_ENDPOINTS_FILE": "/nowhere/endpoints.yaml", "KUBECONFIG": "@"},
            "/nowhere/endpoints.yaml",
            id="endpoints",
        ),
    ],
)
def test_what_it_cannot_start_with_is_told_in_a_line(tmp_path, environment, words):
    kubeconfig = tmp_path / "config"
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    cluster = {"name": "x", "cluster": {"server": "https://127.0.0.1:9"}}
    config = {
        "current-context": "x",
        "contexts": [context],
        "clusters": [cluster],
        "users": [{"name": "x", "user": {}}],
    }
    kubeconfig.write_text(json.dumps(config))
    given = {name: str(kubeconfig) if value == "@" else value for name, value in environment.items()}

    result = run_program(**given)

    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_neither_torch_nor_the_official_client_is_imported():
    heavy = "{'torch', 'numpy', 'boto3', 'kubernetes', 'click', 'rich'}"
    code = (
        "import sys; sys.modules['kubernetes'] = None; import semires_operator.main;"
        f"print(sorted({heavy} & {{name for name, module in sys.modules.items() if module}}))"
    )
    paths = {"PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY / 'trainer'}", "PATH": os.environ["PATH"]}

    found = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
