"""Ranks that hang or die: progress, uploads and outcome go on, and the end says what happened."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

INFRASTRUCTURE = 150
Document = Callable[..., dict[str, Any]]


def outcome_of(output: Path) -> dict[str, Any]:
    """The outcome of the newest attempt."""
    newest = max(output.glob("outcome-a*.json"), key=lambda path: int(re.sub(r"\D", "", path.name)))
    found: dict[str, Any] = json.loads(newest.read_text())
    return found


def states_of(programs: ModuleType, program: Any) -> dict[int, str]:
    """What /healthz says of the ranks."""
    return {entry["rank"]: entry["state"] for entry in programs.get(program, "healthz")["ranks"]}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank(programs: ModuleType, document_of: Document, tmp_path: Path, rank: int) -> None:
    output = tmp_path / "out"
    with programs.started(document_of(output, burnInEpochs=200), tmp_path, "--nproc", "2") as program:
        assert program.wait_for(lambda program: programs.step_of(program) >= 4), program.text()[-4000:]
        program.kill_rank(rank)
        assert program.end() == INFRASTRUCTURE, program.text()[-4000:]

    outcome = outcome_of(output)
    assert outcome["exitCode"] == INFRASTRUCTURE
    assert outcome["error"]["reason"] == "RankLost"
    assert f"rank {rank} was lost" in outcome["error"]["message"]
    assert outcome["lastCheckpoint"]["step"] >= 4
    assert (output / "log-a1.jsonl").is_file()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_hung_rank(programs: ModuleType, document_of: Document, tmp_path: Path, rank: int) -> None:
    """SIGSTOP: all ranks are alive, one does nothing, the other waits for it."""
    output, stalled = tmp_path / "out", {"SEMIRES_STALLED_SECONDS": "4"}
    options = ("--nproc", "2", "--port", "0")
    with programs.started(document_of(output, burnInEpochs=200), tmp_path, *options, environment=stalled) as program:
        assert program.wait_for(lambda program: programs.step_of(program) >= 4), program.text()[-4000:]
        pids = [program.rank_pid(each) for each in (0, 1)]
        program.send(f"rank-{rank}", signal.SIGSTOP)
        assert programs.get(program, "progress")["step"] >= 4
        assert program.wait_for(lambda program: states_of(programs, program)[rank] == "T")
        assert program.end() == INFRASTRUCTURE, program.text()[-4000:]

    outcome = outcome_of(output)
    assert outcome["error"]["reason"] == "RanksHung"
    assert f"rank {rank} was stopped by a signal" in outcome["error"]["message"]
    stacks = [record["message"] for record in program.log() if record.get("message", "").startswith("Stacks of rank")]
    assert [text.split(":")[0] for text in stacks] == ["Stacks of rank 0", "Stacks of rank 1"]
    assert all("run_steps" in text for text in stacks)
    assert not any(programs.is_running(pid) for pid in pids)


def test_a_requested_checkpoint_is_seen_when_it_is_verified_on_s3(
    programs: ModuleType, document_of: Document, s3: Any, tmp_path: Path
) -> None:
    never = {"checkpoint": {"intervalEpochs": 1500}, "burnInEvaluateEvery": 1500}
    document = document_of(s3.uri("out"), burnInEpochs=2000, **never)
    environment = {**s3.environment, "SEMIRES_CACHE": str(tmp_path / "cache")}
    with programs.started(document, tmp_path, *s3.options, "--port", "0", environment=environment) as program:
        assert program.wait_for(lambda program: is_training(programs, program)), program.text()[-4000:]
        assert programs.get(program, "progress")["lastCheckpoint"] is None
        first, second = (programs.post(program, "checkpoint") for _ in range(2))
        assert program.wait_for(lambda program: programs.get(program, "progress")["lastCheckpoint"] is not None)
        told = programs.get(program, "progress")["lastCheckpoint"]
        program.send("supervisor", signal.SIGTERM)
        program.end()

    assert [first[0], second[0]] == [202, 202]
    assert [first[1]["state"], second[1]["state"]] == ["Passed", "Pending"]
    asked, *_ = json.loads(s3.read("out/checkpoints.json"))["checkpoints"]
    assert (told["step"], told["sha256"], told["uri"]) == (asked["number"], asked["sha256"], asked["uri"])


def is_training(programs: ModuleType, program: Any) -> bool:
    """The page is there and says that steps are done."""
    return "served at port" in program.text() and programs.get(program, "progress")["step"] >= 2
