"""Storage that is down in the middle of a run: training goes on, a warning says so, uploads catch up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Document = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("seconds", [15, pytest.param(240, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_training_goes_on_and_uploads_catch_up(
    programs: ModuleType,
    document_of: Document,
    s3: Any,
    make_proxy: Callable[..., Any],
    faults: ModuleType,
    tmp_path: Path,
    seconds: int,
) -> None:
    is_down = False

    def decide(_request: Any) -> Any:
        return faults.Answer(status=503, code="ServiceUnavailable") if is_down else None

    document = document_of(s3.uri("out"), burnInEpochs=40 * seconds, epochs=1, burnInEvaluateEvery=10_000)
    environment = {**s3.environment, "SEMIRES_CACHE": str(tmp_path / "cache")}
    options = ("--endpoint", f"default={make_proxy(decide).url}", "--port", "0")
    ledger = s3.path("out/checkpoints.json")
    with programs.started(document, tmp_path, *options, environment=environment) as program:
        assert program.wait_for(lambda program: is_published(programs, program)), program.text()[-4000:]
        is_down = True
        time.sleep(2)  # what was under way has ended
        before = programs.get(program, "progress")
        time.sleep(seconds)
        page = programs.get(program, "progress")
        assert page["step"] > before["step"] + 5
        assert page["lastCheckpoint"] == before["lastCheckpoint"]
        is_down = False
        assert program.wait_for(
            lambda program: programs.get(program, "progress")["lastCheckpoint"]["step"] >= page["step"]
        ), program.text()[-4000:]
        program.send("supervisor", 15)
        assert program.end() == 143, program.text()[-4000:]

    assert "Storage does not answer; it is tried for 300 s" in program.text()
    outcome = json.loads(s3.read("out/outcome-a1.json"))
    newest = json.loads(ledger.read_text())["checkpoints"][-1]
    assert newest["number"] == outcome["stopped"]["savedStep"] == outcome["lastCheckpoint"]["step"]


def is_published(programs: ModuleType, program: Any) -> bool:
    """The page is there and names a checkpoint."""
    return "served at port" in program.text() and programs.get(program, "progress")["lastCheckpoint"] is not None
