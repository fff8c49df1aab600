"""Every metric of the operator and of its jobs. Series of a job are made of its last look, and vanish with it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from semires_operator.reasons import CONDITIONS
from semires_operator.status import Phase

MAX_JOBS = 5000
"""Jobs with series; further ones are counted in semires_operator_jobs only."""
FIGURES = {
    "loss": ("semires_job_loss", "Loss of the last logged step.", 1.0),
    "learningRate": ("semires_job_learning_rate", "Learning rate of the last logged step.", 1.0),
    "imagesPerSecond": ("semires_job_images_per_second", "Training images a second, over all GPUs.", 1.0),
    "matchRatio": ("semires_job_match_ratio", "Share of the pseudo-labels that were refined.", 1.0),
    "oIoU": ("semires_job_oiou_ratio", "Overall IoU of the last evaluation.", 0.01),
    "mIoU": ("semires_job_miou_ratio", "Mean IoU of the last evaluation.", 0.01),
}
"""Known names of status.progress.metrics -> series, help, factor to the base unit."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class JobSeries(Collector):
    """The series of the jobs, made of their objects when they are asked for. For several threads."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()

    def show(self, job: Mapping[str, Any]) -> None:
        """Remember a job as it was last seen; what it no longer has vanishes."""
        metadata = job["metadata"]
        with self._lock:
            self._jobs[metadata["namespace"], metadata["name"]] = {
                "uid": metadata["uid"],
                "created": metadata.get("creationTimestamp"),
                "refinement": _word(job.get("status"), "display", "refine"),  # a spec may leave it to its preset
                "dataset": _word(job.get("spec"), "dataset", "name"),
                "status": job.get("status") or {},
            }

    def forget(self, namespace: str, name: str) -> None:
        """The job is no more."""
        with self._lock:
            self._jobs.pop((namespace, name), None)

    def known(self) -> list[tuple[str, str]]:
        """Jobs with series."""
        with self._lock:
            return list(self._jobs)

    def collect(self) -> Iterator[Metric]:
        """All series of all jobs."""
        with self._lock:
            jobs = dict(self._jobs)
        yield _phases(job["status"].get("phase") for job in jobs.values())
        families = _Families()
        for (namespace, name), job in list(jobs.items())[:MAX_JOBS]:
            _add_job(families, [namespace, name], job)
        yield from families.values()


class _Families(dict[str, GaugeMetricFamily | CounterMetricFamily]):
    """Families of series by name; they are made when the first series of them is added."""

    def gauge(self, name: str, help_text: str, labels: dict[str, str], value: float | None) -> None:
        if value is not None and math.isfinite(value):
            family = self.setdefault(name, GaugeMetricFamily(name, help_text, labels=list(labels)))
            family.add_metric(list(labels.values()), value)

    def counter(self, name: str, help_text: str, labels: dict[str, str], value: float) -> None:
        family = self.setdefault(name, CounterMetricFamily(name, help_text, labels=list(labels)))
        family.add_metric(list(labels.values()), value)


def _word(part: Any, section: str, key: str) -> str:
    """A word of a spec or status; empty if it is not there. Another definition may have let anything in."""
    for step in (section, key):
        part = part.get(step) if isinstance(part, Mapping) else None
    return str(part or "")


def _phases(phases: Iterable[str | None]) -> Metric:
    family = GaugeMetricFamily("semires_operator_jobs", "Jobs by phase.", labels=["phase"])
    counts = dict.fromkeys(get_args(Phase), 0)
    for phase in phases:
        if phase in counts:
            counts[phase] += 1
    for phase, count in counts.items():
        family.add_metric([phase], count)
    return family


def _add_job(families: _Families, identity: list[str], job: dict[str, Any]) -> None:
    labels = dict(zip(("namespace", "name"), identity, strict=True))
    status = job["status"]
    info = {**labels, "uid": job["uid"], "refinement": job["refinement"], "dataset": job["dataset"]}
    families.gauge("semires_job_info", "What a job is.", info, 1)
    families.counter(
        "semires_job_restarts", "Attempts after the first.", labels, max(0, int(status.get("attempt", 0)) - 1)
    )
    _add_times(families, labels, job["created"], status)
    for condition in status.get("conditions", ()):
        if condition["type"] in CONDITIONS:
            for value in ("True", "False", "Unknown"):
                families.gauge(
                    "semires_job_status_condition",
                    "Conditions of a job: 1 for the status that one has.",
                    {**labels, "type": condition["type"], "status": value.lower()},
                    float(condition["status"] == value),
                )
    _add_progress(families, labels, status.get("progress") or {})


def _add_times(families: _Families, labels: dict[str, str], created: str | None, status: dict[str, Any]) -> None:
    seen, began, ended = _seconds(created), _seconds(status.get("startTime")), _seconds(status.get("completionTime"))
    checkpoint = _seconds((status.get("lastCheckpoint") or {}).get("time"))
    families.gauge("semires_job_created_timestamp_seconds", "When the job was created.", labels, seen)
    families.gauge("semires_job_start_timestamp_seconds", "When its first trainer began.", labels, began)
    families.gauge("semires_job_completion_timestamp_seconds", "When the job finished.", labels, ended)
    families.gauge(
        "semires_job_last_checkpoint_timestamp_seconds", "Time of its newest verified checkpoint.", labels, checkpoint
    )
    if seen is not None and began is not None:
        families.gauge(
            "semires_job_queue_wait_seconds",
            "Time from creation to the start of its first trainer.",
            labels,
            max(0.0, began - seen),
        )


def _add_progress(families: _Families, labels: dict[str, str], progress: dict[str, Any]) -> None:
    if not progress:
        return
    share = float(progress.get("progressPercentage") or 0) / 100
    families.gauge(
        "semires_job_progress_ratio",
        "Share of the run that is done.",
        labels,
        share,
    )
    families.gauge("semires_job_epoch", "Epoch of the training stage, from 1.", labels, progress.get("epoch"))
    families.gauge("semires_job_step", "Optimizer steps done, of the whole run.", labels, progress.get("step"))
    stale = float(bool(progress.get("stale")))
    families.gauge("semires_job_progress_stale", "1 while the trainer can't be asked.", labels, stale)
    for figure in progress.get("metrics", ()):
        if figure["name"] in FIGURES:
            name, help_text, factor = FIGURES[figure["name"]]
            families.gauge(name, help_text, labels, float(figure["value"]) * factor)


def _seconds(time: str | None) -> float | None:
    return datetime.fromisoformat(time).timestamp() if time else None


def _value_of(values: Callable[[], Mapping[str, float]], name: str) -> float:
    return values().get(name, 0.0)


class Metrics:
    """The metrics of one operator, and their registry."""

    def __init__(self, *, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        registry = self.registry
        self.jobs = JobSeries()
        registry.register(self.jobs)
        build = Gauge("semires_operator_build_info", "Version of the operator.", ["version"], registry=registry)
        build.labels(version).set(1)
        self.leader = Gauge("semires_operator_leader", "1 while this replica leads.", registry=registry)
        self.reconciles = Counter(
            "semires_operator_reconcile_total", "Looks at a job, by how they ended.", ["result"], registry=registry
        )
        self.reconcile_seconds = Histogram(
            "semires_operator_reconcile_duration_seconds", "Time of a look.", buckets=SECONDS, registry=registry
        )
        self.requests = Counter(
            "semires_operator_api_requests_total",
            "Calls to the API server; code 0 is no answer.",
            ["verb", "code"],
            registry=registry,
        )
        self.polls = Counter(
            "semires_operator_polls_total", "Questions to trainers, by answer.", ["result"], registry=registry
        )
        self.last_event = Gauge(
            "semires_operator_watch_last_event_timestamp_seconds",
            "When the last event of a watch came.",
            ["kind"],
            registry=registry,
        )
        self.missed = Counter(
            "semires_operator_watch_missed_total",
            "Changes that no watch told, found by comparing with a list.",
            ["kind"],
            registry=registry,
        )
        self.queue_depth = Gauge("semires_operator_queue_depth", "Jobs that wait to be looked at.", registry=registry)
        self.lag = Gauge("semires_operator_event_loop_lag_seconds", "How late a loop is.", ["loop"], registry=registry)

    def count_request(self, verb: str, code: int) -> None:
        """Count a call to the API server."""
        self.requests.labels(verb, str(code)).inc()

    def watch(self, *, depth: Callable[[], float], lags: Callable[[], Mapping[str, float]]) -> None:
        """Read these whenever the metrics are asked for."""
        self.queue_depth.set_function(depth)
        for loop in ("main", "streams"):
            self.lag.labels(loop).set_function(partial(_value_of, lags, loop))

    def text(self) -> bytes:
        """Prometheus' text."""
        return generate_latest(self.registry)
