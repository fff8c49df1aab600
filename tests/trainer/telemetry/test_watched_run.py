"""A real Prometheus asks for the metrics of a real run, from its files, while it trains and after it hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.data.synthetic import SyntheticConfig, write_synthetic
from semires_trainer.exposition import Attempt, LastCheckpoint, Scene, Uploads, exposition, progress_document
from semires_trainer.progress_file import read_progress
from semires_trainer.serving import serve

PATIENCE_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class FromFiles:
    """What a supervisor tells, without one: from the progress file, and from the checkpoints in the output."""

    progress_file: Path
    checkpoints: Path
    began: float = field(default_factory=time.time)

    def scene(self) -> Scene:
        folders = sorted(self.checkpoints.glob("step-*/manifest.json"))
        last = None
        if folders:
            step = int(folders[-1].parent.name.removeprefix("step-"))
            last = LastCheckpoint(
                uri=str(folders[-1].parent), step=step, sha256="0" * 64, time=folders[-1].stat().st_mtime
            )
        return Scene(
            attempt=Attempt(job="tiny", strategy="CPI-U", began=self.began),
            report=read_progress(self.progress_file).report,
            uploads=Uploads(last=last),
            now=time.time(),
        )

    def progress(self) -> dict[str, Any]:
        return progress_document(self.scene(), stage="start")

    def metrics(self) -> bytes:
        return exposition(self.scene())

    def health(self) -> dict[str, Any]:
        return {}

    def request_checkpoint(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A rank that trains for hours; killed at the end."""
    write_synthetic(tmp_path / "data", SyntheticConfig(images=10, evaluation_images=4, size=64))
    script = Path(__file__).with_name("watched_run.py")
    with (tmp_path / "rank.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), *(str(tmp_path / name) for name in ("data", "out", "control"))],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stderr=log,
            text=True,
        )
        yield process
        process.kill()
        process.wait()


def wait_for(server: Any, expressions: dict[str, str], process: subprocess.Popen[str], log: Path) -> dict[str, float]:
    """The value of each query, once all have one."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = {name: server.query(expression) for name, expression in expressions.items()}
        if all(found.values()):
            return {name: series[0][1] for name, series in found.items()}
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_prometheus_sees_a_run_and_the_server_outlives_one_that_hangs(
    running: subprocess.Popen[str], prometheus: ModuleType, tmp_path: Path
) -> None:
    control = tmp_path / "control"
    source = FromFiles(progress_file=control / "progress.json", checkpoints=tmp_path / "out" / "checkpoints")
    expressions = {
        "oiou": 'semires_eval_oiou_ratio{model="teacher", split="val"}',
        "loss": 'semires_train_loss{part="total"} > 0',
        "supervised": 'semires_train_loss{part="supervised"} > 0',
        "images_per_second": "semires_train_images_per_second > 0",
        "checkpoint_age": "time() - semires_job_last_checkpoint_timestamp_seconds",
        "match": 'semires_train_pseudo_label_match_ratio{strategy="CPI-U"}',
        "steps": "semires_train_step_seconds_count > 3",
        "step": "semires_train_step_seconds_sum / semires_train_step_seconds_count > 0",
        "data_wait": "semires_train_data_wait_seconds_total > 0",
        "goodput": "semires_train_goodput_ratio > 0",
        "up": 'up{job="semires"} == 1',
    }
    with serve(("127.0.0.1", 0), source) as server, closing(prometheus.PrometheusServer(tmp_path, server.port)) as prom:
        found = wait_for(prom, expressions, running, tmp_path / "rank.log")
        running.send_signal(signal.SIGSTOP)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/progress", timeout=10) as answer:
            document = json.load(answer)
        (target,) = prom.ask("targets")["activeTargets"]
        text = source.metrics()

    assert 0 <= found["oiou"] <= 1
    assert 0 <= found["checkpoint_age"] < PATIENCE_SECONDS
    assert 0 <= found["match"] <= 1
    assert found["goodput"] <= 1
    assert (target["health"], target["lastError"]) == ("up", "")
    assert prometheus.lint(text) == ""
    assert document["stage"] in ("train", "evaluate")
    assert document["epoch"] >= 1
    assert document["lastCheckpoint"]["step"] >= 3
    assert {metric["name"] for metric in document["metrics"]} >= {"loss", "oIoU", "imagesPerSecond"}
