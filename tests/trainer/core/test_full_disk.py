"""Training on a disk without room: it goes on, says so, leaves nothing damaged, and ends where it would have ended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

from semires_trainer.checkpoint_folders import checkpoints_of, fault_of, newest_valid, number_of
from semires_trainer.errors import InfrastructureError
from semires_trainer.metrics_log import MetricsLog, read_records
from semires_trainer.run import run_stages
from semires_trainer.signals import StopRequested
from semires_trainer.sinks import Position

LIMIT = 64 << 10
"""Bytes a file may have on the "full" disk: less than the tensors of a checkpoint, more than anything else."""
BURN_IN_STEPS = 6


def test_training_goes_on_without_room_and_ends_where_it_would_have_ended(
    finished: Path, data: Path, output: Path, harness: ModuleType, states: ModuleType
) -> None:
    """The disk is full from the first step of mutual learning until it was said that a checkpoint is missing."""
    document = harness.document_of(data, output, checkpoint={"intervalSteps": 1, "keepLast": 100})
    with ExitStack() as full:

        def watch_the_disk(position: Position) -> bool:
            if position.stage == "train" and position.done == 1:
                full.enter_context(states.file_size_limit(LIMIT))
            if any("could not be written" in message for message in watch.messages):
                full.close()
            return False

        with harness.opened_run(document, stop_when=watch_the_disk) as (run, watch):
            run_stages(run, ["train"])

    (missing, *_) = [message for message in watch.messages if "could not be written" in message]
    folders = checkpoints_of(output / "checkpoints")
    assert "Checkpoint of train step 1 could not be written" in missing
    assert "File too large" in missing
    assert BURN_IN_STEPS + 1 not in [number_of(folder) for folder in folders]
    assert [fault_of(folder) for folder in folders] == [None] * len(folders)
    assert list((output / "checkpoints").glob(".*")) == []
    assert harness.differing(harness.newest_tensors(output), harness.newest_tensors(finished)) == []


def test_a_stop_without_room_says_what_is_lost_and_the_next_start_does_it_again(
    finished: Path, data: Path, output: Path, harness: ModuleType, states: ModuleType
) -> None:
    document = harness.document_of(data, output, checkpoint={"intervalSteps": 2})
    with ExitStack() as full:

        def stop_on_a_full_disk(position: Position) -> bool:
            due = position.stage == "train" and position.done == 5
            if due:
                full.enter_context(states.file_size_limit(LIMIT))
            return due

        with pytest.raises(StopRequested, match="train step 6 could not be saved") as stopped:
            harness.train(document, stop_when=stop_on_a_full_disk)

    newest = newest_valid(output / "checkpoints")
    assert newest is not None
    assert number_of(newest) == stopped.value.saved_step == BURN_IN_STEPS + 4
    assert str(newest) in stopped.value.saved
    harness.train(document)
    assert harness.differing(harness.newest_tensors(output), harness.newest_tensors(finished)) == []


def test_a_best_model_without_room_ends_the_run_with_its_reason_and_the_next_start_finds_it_again(
    finished: Path, data: Path, output: Path, harness: ModuleType, states: ModuleType
) -> None:
    """To go on would leave an older model as the best one."""
    document = harness.document_of(data, output, checkpoint={"intervalSteps": 2})
    with ExitStack() as full:

        def fill_the_disk(position: Position) -> bool:
            if position.stage == "evaluate" and not (output / "burn-in").exists():
                full.enter_context(states.file_size_limit(LIMIT))
            return False

        with pytest.raises(InfrastructureError, match=r"burn-in: File too large") as failed:
            harness.train(document, stop_when=fill_the_disk)

    assert failed.value.exit_code == 150
    harness.train(document, stages=("train", "evaluate"))
    assert harness.differing(harness.newest_tensors(output), harness.newest_tensors(finished)) == []
    assert (output / "results.json").read_text() == (finished / "results.json").read_text()


def test_metrics_without_room_are_said_to_be_missing_once_and_written_later(
    tmp_path: Path, states: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    log = MetricsLog(tmp_path, tensorboard=False)
    log.log(1, {"loss": 1.0})
    with states.file_size_limit(log.path.stat().st_size + 10):
        log.log(2, {"loss": 2.0})
        log.log(3, {"loss": 3.0})
    log.log(4, {"loss": 4.0})
    log.close()

    assert [record["step"] for record in read_records(log.path)] == [1, 2, 3, 4]
    assert [record.message.startswith("The run goes on") for record in caplog.records] == [True]


RUN = """
import json, sys
from semires_trainer.config import parse_job
from semires_trainer.run import run_here
run_here(parse_job(json.load(open(sys.argv[1]))), stages=("train",))
"""
SMALL_DISK = """
set -u
mount -t tmpfs -o size=$SIZE small "$DISK"
"$PYTHON" -c "$RUN" "$JOB"; echo "ended with $?"
cp -a "$DISK" "$COPIES/full"
mount -o remount,size=64m small "$DISK"
"$PYTHON" -c "$RUN" "$JOB"; echo "ended with $?"
cp -a "$DISK" "$COPIES/roomy"
"""


@pytest.mark.long
def test_a_disk_that_is_too_small_ends_the_stage_with_its_reason_and_more_room_the_run(
    finished: Path, data: Path, output: Path, harness: ModuleType
) -> None:
    """A tmpfs with room for one and a half checkpoints of burn-in, then for all."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here: nothing can be mounted")
    disk, copies = output / "checkpoints", output.parent / "copies"
    disk.mkdir(parents=True)
    copies.mkdir()
    job = output.parent / "job.json"
    job.write_text(json.dumps(harness.document_of(data, output, checkpoint={"intervalSteps": 2})))
    newest = newest_valid(finished / "checkpoints")
    assert newest is not None
    burn_in = sum((newest / f"{name}.safetensors").stat().st_size for name in ("student", "optimizer"))
    environment = {
        **{"SIZE": str(burn_in * 3 // 2), "DISK": str(disk), "COPIES": str(copies), "JOB": str(job), "RUN": RUN},
        **{"PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    }

    command = ["unshare", "-rm", "sh", "-c", SMALL_DISK]
    ended = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)

    assert ended.stdout.split("\n")[:2] == ["ended with 1", "ended with 0"], ended.stderr[-3000:]
    assert "Checkpoint of burn-in step 4 could not be written" in ended.stderr
    assert "DiskFull: no space left on the disk" in ended.stderr
    assert [number_of(folder) for folder in checkpoints_of(copies / "full")] == [2]
    assert [fault_of(folder) for folder in checkpoints_of(copies / "full")] == [None]
    shutil.copytree(copies / "roomy", disk, dirs_exist_ok=True)
    assert harness.differing(harness.newest_tensors(output), harness.newest_tensors(finished)) == []
