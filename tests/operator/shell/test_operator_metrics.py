"""Metrics of the operator and of its jobs: named by the rules, bounded, gone with their job."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from semires_operator.metrics import MAX_JOBS, Metrics

STATUS = {
    "phase": "Running",
    "attempt": 3,
    "display": {"refine": "CPI"},
    "startTime": "2026-01-01T00:01:00Z",
    "completionTime": "2026-01-01T05:00:00Z",
    "conditions": [
        {"type": "Running", "status": "True", "reason": "Training"},
        {"type": "FromANewerOperator", "status": "True", "reason": "X"},
    ],
    "lastCheckpoint": {"uri": "s3://b/c", "step": 10, "time": "2026-01-01T02:00:00Z"},
    "progress": {
        "stage": "train",
        "epoch": 12,
        "step": 240,
        "progressPercentage": 31,
        "metrics": [
            {"name": "loss", "value": "0.25"},
            {"name": "oIoU", "value": "47.31"},
            {"name": "mIoU", "value": "50.5"},
            {"name": "learningRate", "value": "5e-05"},
            {"name": "imagesPerSecond", "value": "99"},
            {"name": "matchRatio", "value": "0.7"},
            {"name": "evil", "value": "1"},
        ],
    },
}


def job(name: str = "a", **status: Any) -> dict[str, Any]:
    metadata = {"namespace": "team", "name": name, "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {
        "metadata": metadata,
        "spec": {"dataset": {"name": "RefCOCO"}, "training": {"preset": "OfficialCPI"}},
        "status": {**STATUS, **status},
    }


def values(metrics: Metrics, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    samples = (sample for family in families for sample in family.samples)
    return {tuple(sorted(sample.labels.items())): sample.value for sample in samples if sample.name == name}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1.0")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("semires_job_progress_ratio", 0.31, id="progress"),
        pytest.param("semires_job_epoch", 12, id="epoch"),
        pytest.param("semires_job_oiou_ratio", 0.4731, id="oiou-as-a-ratio"),
        pytest.param("semires_job_learning_rate", 5e-05, id="learning-rate"),
        pytest.param("semires_job_queue_wait_seconds", 60, id="queue-wait"),
        pytest.param("semires_job_restarts_total", 2, id="restarts"),
        pytest.param("semires_job_last_checkpoint_timestamp_seconds", 1767232800, id="checkpoint"),
        pytest.param("semires_job_completion_timestamp_seconds", 1767243600, id="completion"),
    ],
)
def test_a_job_has_its_series(metrics, name, value):
    metrics.jobs.show(job())

    assert values(metrics, name) == {(("name", "a"), ("namespace", "team")): pytest.approx(value)}


def test_the_strategy_of_a_job_is_the_one_that_its_preset_chooses(metrics):
    metrics.jobs.show(job())

    ((labels, _),) = values(metrics, "semires_job_info").items()
    assert dict(labels)["refinement"] == "CPI"


def test_a_condition_is_1_for_the_status_it_has(metrics):
    metrics.jobs.show(job())

    conditions = values(metrics, "semires_job_status_condition")
    assert {dict(labels)["status"]: value for labels, value in conditions.items()} == {
        "true": 1,
        "false": 0,
        "unknown": 0,
    }


def test_series_vanish_with_the_job(metrics):
    metrics.jobs.show(job())
    metrics.jobs.forget("team", "a")

    assert b'name="a"' not in metrics.text()


def test_what_a_job_no_longer_has_vanishes(metrics):
    metrics.jobs.show(job())
    metrics.jobs.show(job(progress=None, lastCheckpoint=None))

    assert values(metrics, "semires_job_epoch") == {}
    assert values(metrics, "semires_job_last_checkpoint_timestamp_seconds") == {}


def test_jobs_are_counted_by_phase(metrics):
    metrics.jobs.show(job("a"))
    metrics.jobs.show(job("b", phase="Failed"))
    metrics.jobs.show(job("c", phase="FromANewerOperator"))

    phases = {dict(labels)["phase"]: value for labels, value in values(metrics, "semires_operator_jobs").items()}
    assert {phase for phase, value in phases.items() if value} == {"Running", "Failed"}


def test_the_number_of_series_is_bounded(metrics):
    for number in range(MAX_JOBS + 10):
        metrics.jobs.show(job(f"j{number}", progress=None, conditions=[]))

    assert len(values(metrics, "semires_job_info")) == MAX_JOBS


def test_a_job_without_a_status_has_few_series(metrics):
    metrics.jobs.show({"metadata": job()["metadata"], "spec": {}})

    assert len(values(metrics, "semires_job_info")) == 1


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing(metrics):
    metrics.jobs.show(job())
    metrics.count_request("get", 200)
    metrics.polls.labels("ok").inc()
    metrics.reconciles.labels("ok").inc()
    metrics.last_event.labels("Pod").set(1)
    metrics.missed.labels("Pod").inc(0)
    metrics.watch(depth=lambda: 1, lags=lambda: {"main": 0.5})

    checked = subprocess.run(["promtool", "check", "metrics"], input=metrics.text(), capture_output=True)

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
