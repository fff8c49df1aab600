"""The preflight after a run that a training pod has really done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def test_a_run_that_is_done_needs_no_gpu(scene: Any) -> None:
    environment = scene.whole_environment(SEMIRES_ATTEMPT="1", SEMIRES_PORT="0", PET_NPROC_PER_NODE="1")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SEMIRES_"))}
    path = os.pathsep.join(filter(None, sys.path))
    trained = subprocess.run(
        [sys.executable, "-m", "semires_trainer.pod"],
        env={**inherited, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert trained.returncode == 0, trained.stderr[-4000:]
    before = scene.names("out")

    told = scene.run(SEMIRES_ATTEMPT="2")

    assert told.code == 0, told.outcome
    assert told.found["complete"]
    assert told.found["stagesDone"] == ["proposals", "burn-in", "train", "evaluate"]
    assert told.found["previousOutcome"] == json.loads(scene.get("out/outcome-a1.json"))
    last = told.found["previousOutcome"]["lastCheckpoint"]
    assert told.found["lastCheckpoint"] == {name: last[name] for name in ("uri", "step", "sha256", "time")}
    assert told.found["warnings"] == []
    assert scene.names("out") == before

    scene.delete("out/results.json")
    again = scene.run(SEMIRES_ATTEMPT="2")

    assert not again.found["complete"]
    assert again.found["stagesDone"] == ["proposals", "burn-in", "train"]
