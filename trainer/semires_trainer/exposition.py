"""What the process that supervises the ranks tells of a run: Prometheus text, and the document of /progress.

Pure functions of the last progress report and of what the supervisor keeps itself. Label values are from closed sets,
except those of `semires_trainer_info`, of which there is one series: nothing that a manifest names can add series.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from semires_trainer.progress_file import LOSS_PARTS, SCHEMA_VERSION, EvaluationFigures, ProgressReport, Training

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Result = Literal["success", "failure"]

MODELS = ("burn-in", "teacher")
SPLITS = ("val", "testA", "testB", "test", "train", "other")
"""The first split of another name, of a custom data set, is "other"; further ones are in results.json only."""
STRATEGIES = ("CPI-U", "CPI", "CPI-O", "IOM", "None")
IDENTITY_CHARACTERS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """Which attempt of which job this process supervises, and since when."""

    job: str
    attempt: int = 1
    job_uid: str = ""
    """Empty outside of a cluster."""
    pod_uid: str = ""
    strategy: str = "None"
    """`spec.refinement.strategy`."""
    version: str = ""
    """Of this program."""
    began: float
    """Seconds since 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LastCheckpoint:
    """The newest checkpoint that was published and verified."""

    uri: str
    step: int
    sha256: str
    """Of its manifest.json."""
    time: float
    """Seconds since 1970."""

    def to_json(self) -> dict[str, Any]:
        """As in /progress."""
        return {"uri": self.uri, "step": self.step, "sha256": self.sha256, "time": rfc3339(self.time)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Uploads of checkpoints with one result."""

    count: int = 0
    seconds: float = 0.0
    num_bytes: int = 0

    def plus(self, *, seconds: float, num_bytes: int) -> Tally:
        """One upload more."""
        return Tally(count=self.count + 1, seconds=self.seconds + seconds, num_bytes=self.num_bytes + num_bytes)


def _no_tallies() -> dict[Result, Tally]:
    return {result: Tally() for result in get_args(Result)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Uploads:
    """What was published in this attempt. Frozen: one thread replaces it while others show it."""

    tallies: Mapping[Result, Tally] = field(default_factory=_no_tallies)
    last: LastCheckpoint | None = None

    def plus(self, result: Result, *, seconds: float, num_bytes: int, last: LastCheckpoint | None = None) -> Uploads:
        """One upload more, and the checkpoint that it published."""
        tally = self.tallies[result].plus(seconds=seconds, num_bytes=num_bytes)
        return replace(self, tallies={**self.tallies, result: tally}, last=last or self.last)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Everything the metrics are made of."""

    attempt: Attempt
    report: ProgressReport | None
    uploads: Uploads
    now: float
    """Seconds since 1970."""

    @property
    def training(self) -> Training:
        """Of the report; nothing yet if there is none."""
        return self.report.training if self.report else Training()


Sample = tuple[tuple[str, ...], float | None]
"""Label values, and the value; None is no series."""
SummarySample = tuple[tuple[str, ...], int, float]
"""Label values, count, sum."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One metric: how it is called, what it means, where its values are from."""

    name: str
    kind: Literal["gauge", "counter", "summary"]
    help: str
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Name of a label -> the values it may have; none are listed for the identity of the attempt."""
    samples: Callable[[Scene], Iterable[Sample]] = lambda _: ()
    summaries: Callable[[Scene], Iterable[SummarySample]] = lambda _: ()

    def collect(self, scene: Scene) -> Metric:
        """The family with its series; those with a label value that is not listed are left out."""
        names = tuple(self.labels)
        if self.kind == "summary":
            summary = SummaryMetricFamily(self.name, self.help, labels=names)
            for labels, count, total in self.summaries(scene):
                if self._admits(labels):
                    summary.add_metric(labels, count, total)
            return summary
        shape = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = shape(self.name, self.help, labels=names)
        for labels, value in self.samples(scene):
            if value is not None and self._admits(labels):
                family.add_metric(labels, value)
        return family

    def _admits(self, labels: tuple[str, ...]) -> bool:
        return all(not known or value in known for value, known in zip(labels, self.labels.values(), strict=True))


def _one(value: Callable[[Scene], float | None]) -> Callable[[Scene], Iterable[Sample]]:
    """A metric without labels."""
    return lambda scene: [((), value(scene))]


def _evaluations(figure: Callable[[EvaluationFigures], float]) -> Callable[[Scene], Iterable[Sample]]:
    """One series per model and split; percent to a ratio."""

    def samples(scene: Scene) -> Iterator[Sample]:
        seen = set()
        for one in scene.training.evaluations:
            labels = (one.model, one.split if one.split in SPLITS else "other")
            if labels not in seen:
                seen.add(labels)
                yield labels, figure(one) / 100

    return samples


def _uploads(value: Callable[[Tally], float]) -> Callable[[Scene], Iterable[Sample]]:
    return lambda scene: [((result,), value(tally)) for result, tally in scene.uploads.tallies.items()]


def _goodput(scene: Scene) -> float | None:
    elapsed = scene.now - scene.attempt.began
    return min(1.0, scene.training.step_seconds / elapsed) if elapsed > 0 else None


def _identity(scene: Scene) -> Iterable[Sample]:
    attempt = scene.attempt
    values = (attempt.job, str(attempt.attempt), attempt.job_uid, attempt.pod_uid, attempt.strategy, attempt.version)
    return [(tuple(map(printable, values)), 1)]


def printable(text: str) -> str:
    """`text` without what breaks a line or UTF-8, at most IDENTITY_CHARACTERS long."""
    return "".join(character if character.isprintable() else "?" for character in text[:IDENTITY_CHARACTERS])


_MODEL_AND_SPLIT = {"model": MODELS, "split": SPLITS}
_RESULT = {"result": get_args(Result)}

FAMILIES = (
    Family(
        name="semires_trainer_info",
        kind="gauge",
        help="Identity of the attempt; always 1.",
        labels={name: () for name in ("job", "attempt", "job_uid", "pod_uid", "strategy", "version")},
        samples=_identity,
    ),
    Family(
        name="semires_job_progress_ratio",
        kind="gauge",
        help="Share of the whole run's time that is done, by the speeds known now.",
        samples=_one(lambda scene: scene.report.training.progress_ratio if scene.report else None),
    ),
    Family(
        name="semires_job_epoch",
        kind="gauge",
        help="Epoch of the training stage, from 1.",
        samples=_one(lambda scene: scene.report.epoch if scene.report else None),
    ),
    Family(
        name="semires_job_progress_timestamp_seconds",
        kind="gauge",
        help="When rank 0 last told where it is, at the end its supervisor: a hung run falls behind.",
        samples=_one(lambda scene: scene.report.last_updated_time.timestamp() if scene.report else None),
    ),
    Family(
        name="semires_job_last_checkpoint_timestamp_seconds",
        kind="gauge",
        help="When the newest published checkpoint was published.",
        samples=_one(lambda scene: scene.uploads.last.time if scene.uploads.last else None),
    ),
    Family(
        name="semires_job_last_checkpoint_step",
        kind="gauge",
        help="Optimizer steps of the whole run in the newest published checkpoint.",
        samples=_one(lambda scene: scene.uploads.last.step if scene.uploads.last else None),
    ),
    Family(
        name="semires_train_loss",
        kind="gauge",
        help="Loss of the last step; its parts of the last logged step.",
        labels={"part": tuple(LOSS_PARTS.values())},
        samples=lambda scene: [((part,), value) for part, value in scene.training.loss.items()],
    ),
    Family(
        name="semires_train_learning_rate",
        kind="gauge",
        help="Learning rate of the last logged step.",
        samples=_one(lambda scene: scene.training.learning_rate),
    ),
    Family(
        name="semires_train_images_per_second",
        kind="gauge",
        help="Images of the global batch per second, over the last 20 s or so.",
        samples=_one(lambda scene: scene.training.images_per_second),
    ),
    Family(
        name="semires_train_pseudo_label_match_ratio",
        kind="gauge",
        help="Share of the pseudo-labels that the strategy refined, in the last logged step.",
        labels={"strategy": STRATEGIES},
        samples=lambda scene: [((scene.attempt.strategy,), scene.training.match_ratio)],
    ),
    Family(
        name="semires_train_step_seconds",
        kind="summary",
        help="Time of optimizer steps, without what they waited for.",
        summaries=lambda scene: [((), scene.training.steps, scene.training.step_seconds)],
    ),
    Family(
        name="semires_train_data_wait_seconds_total",
        kind="counter",
        help="Time that steps waited for their batches.",
        samples=_one(lambda scene: scene.training.data_wait_seconds),
    ),
    Family(
        name="semires_train_checkpoint_stall_seconds_total",
        kind="counter",
        help="Time that steps waited for checkpoints.",
        samples=_one(lambda scene: scene.training.checkpoint_stall_seconds),
    ),
    Family(
        name="semires_train_goodput_ratio",
        kind="gauge",
        help="Time of optimizer steps divided by the time of this attempt: starts, waits and evaluations lower it.",
        samples=_one(_goodput),
    ),
    Family(
        name="semires_train_skipped_steps_total",
        kind="counter",
        help="Steps that were left out because their loss was not finite.",
        samples=_one(lambda scene: scene.training.skipped_steps),
    ),
    Family(
        name="semires_train_bad_images_total",
        kind="counter",
        help="Pictures that could not be read and were replaced.",
        samples=_one(lambda scene: scene.training.bad_images),
    ),
    Family(
        name="semires_eval_oiou_ratio",
        kind="gauge",
        help="oIoU of the last evaluation, at the training size.",
        labels=_MODEL_AND_SPLIT,
        samples=_evaluations(lambda figures: figures.overall_iou),
    ),
    Family(
        name="semires_eval_miou_ratio",
        kind="gauge",
        help="mIoU of the last evaluation, at the training size.",
        labels=_MODEL_AND_SPLIT,
        samples=_evaluations(lambda figures: figures.mean_iou),
    ),
    Family(
        name="semires_checkpoint_upload_total",
        kind="counter",
        help="Checkpoints that were published, or could not be.",
        labels=_RESULT,
        samples=_uploads(lambda tally: tally.count),
    ),
    Family(
        name="semires_checkpoint_upload_duration_seconds",
        kind="summary",
        help="Time to publish a checkpoint.",
        labels=_RESULT,
        summaries=lambda scene: [
            ((result,), tally.count, tally.seconds) for result, tally in scene.uploads.tallies.items()
        ],
    ),
    Family(
        name="semires_checkpoint_upload_bytes_total",
        kind="counter",
        help="Bytes of the checkpoints that were published, or could not be.",
        labels=_RESULT,
        samples=_uploads(lambda tally: tally.num_bytes),
    ),
)


class _Collected(Collector):
    """The families of one scene, in the form that prometheus_client writes."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def collect(self) -> Iterable[Metric]:
        return [family.collect(self._scene) for family in FAMILIES]


def exposition(scene: Scene) -> bytes:
    """The metrics of an attempt in Prometheus' text format (CONTENT_TYPE)."""
    return generate_latest(_Collected(scene))


def progress_document(scene: Scene, *, stage: str = "") -> dict[str, Any]:
    """The JSON of /progress; `stage` is what the supervisor does while there is no report, such as "fetch".

    A node without rank 0 never has one: `lastUpdatedTime` is null there, so that nobody takes its zeros for the run's.
    """
    report, attempt, last = scene.report, scene.attempt, scene.uploads.last
    return {
        "schemaVersion": SCHEMA_VERSION,
        "jobUid": attempt.job_uid,
        "attempt": attempt.attempt,
        "podUid": attempt.pod_uid,
        "stage": report.stage if report else stage,
        "epoch": report.epoch if report else None,
        "epochs": report.epochs if report else None,
        "step": report.step if report else 0,
        "steps": report.steps if report else 0,
        "progressPercentage": report.progress_percentage if report else 0,
        "estimatedRemainingSeconds": report.estimated_remaining_seconds if report else None,
        "metrics": [metric.model_dump() for metric in report.metrics] if report else [],
        "lastUpdatedTime": rfc3339(report.last_updated_time.timestamp()) if report else None,
        "lastCheckpoint": last.to_json() if last else None,
    }


def rfc3339(seconds: float) -> str:
    """A time in UTC, to the millisecond: 2026-03-01T12:00:00.000Z."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
