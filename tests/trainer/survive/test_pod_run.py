"""What a training pod runs, with the environment that the operator gives it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Document = Callable[..., dict[str, Any]]


def test_a_pod_trains_and_tells_in_json(
    document_of: Document, s3: Any, servers: Any, credentials: Path, tmp_path: Path
) -> None:
    document = json.dumps(document_of(s3.uri("out"), epochs=1))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "SEMIRES_DOCUMENT": document,
        "SEMIRES_DOCUMENT_SHA256": hashlib.sha256(document.encode()).hexdigest(),
        "SEMIRES_JOB_UID": "job-uid",
        "SEMIRES_ATTEMPT": "3",
        "SEMIRES_POD_UID": "pod-uid",
        "SEMIRES_POD_NAME": "tiny-a3-master-0",
        "SEMIRES_ENDPOINT_URL": s3.url,
        "SEMIRES_ENDPOINT_REGION": servers.REGION,
        "SEMIRES_CREDENTIALS": str(credentials),
        "SEMIRES_CACHE": str(tmp_path / "cache"),
        "SEMIRES_TERMINATION_LOG": str(tmp_path / "termination-log"),
        "SEMIRES_PORT": "0",
        # What PyTorchJob sets for a Master alone.
        "PET_NNODES": "1",
        "PET_NPROC_PER_NODE": "2",
        "PET_NODE_RANK": "0",
        "PET_MASTER_ADDR": "tiny-a3-master-0",
        "PET_MASTER_PORT": "23456",
        "RANK": "0",
        "WORLD_SIZE": "2",
    }

    ended = subprocess.run(
        [sys.executable, "-m", "semires_trainer.pod"], env=environment, capture_output=True, text=True, timeout=240
    )

    assert ended.returncode == 0, ended.stderr[-4000:]
    records = [json.loads(line) for line in ended.stderr.splitlines()]
    assert all({"time", "level", "event", "job", "attempt", "rank"} <= record.keys() for record in records)
    assert {(record["job"], record["attempt"]) for record in records} == {("tiny", 3)}
    assert {record["rank"] for record in records} >= {0, None}
    outcome = json.loads((tmp_path / "termination-log").read_text())
    assert outcome == json.loads(s3.read("out/outcome-a3.json"))
    assert (outcome["jobUid"], outcome["podUid"], outcome["exitCode"]) == ("job-uid", "pod-uid", 0)
    assert {score["model"] for score in outcome["results"]} == {"burn-in", "teacher"}
    assert json.loads(s3.read("out/run.json"))["jobUid"] == "job-uid"
    assert (records[-1]["event"], records[-1]["outcome"]["exitCode"]) == ("outcome", 0)
    logged = [json.loads(line) for line in s3.read("out/log-a3.jsonl").splitlines()]
    assert {record["attempt"] for record in logged} == {3}
