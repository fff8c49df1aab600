"""The metrics: well named, of bounded number, equal to their documentation; and the document of /progress."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import logging
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from semires_trainer.exposition import (
    FAMILIES,
    IDENTITY_CHARACTERS,
    Attempt,
    LastCheckpoint,
    Scene,
    Uploads,
    exposition,
    progress_document,
)
from semires_trainer.progress_file import EvaluationFigures, ProgressReport, Training
from semires_trainer.sinks import JsonSink

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
BEGAN = 1_772_366_400.0
LAST = LastCheckpoint(uri="s3://b/run/checkpoints/step-00000240", step=240, sha256="a" * 64, time=BEGAN + 60)


@pytest.fixture
def scene(report: ProgressReport) -> Scene:
    """100 seconds after the start, one upload that failed and one that did not."""
    attempt = Attempt(job="refcoco-1pct", attempt=2, job_uid="u", pod_uid="p", strategy="CPI-U", began=BEGAN)
    uploads = (
        Uploads()
        .plus("failure", seconds=3.0, num_bytes=10)
        .plus("success", seconds=4.0, num_bytes=100, last=LAST)
        .plus("success", seconds=5.0, num_bytes=100)
    )
    return Scene(attempt=attempt, report=report, uploads=uploads, now=BEGAN + 100)


def series_of(scene: Scene) -> dict[str, float]:
    """`name{label="value"}` -> value of everything that is exposed."""
    text = exposition(scene).decode()
    return {
        sample.name + ("{" + ",".join(f'{k}="{v}"' for k, v in sample.labels.items()) + "}" if sample.labels else ""): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_promtool_has_nothing_to_say(scene: Scene, prometheus: ModuleType) -> None:
    assert prometheus.lint(exposition(scene)) == ""


def test_promtool_has_nothing_to_say_of_a_run_that_has_not_begun(scene: Scene, prometheus: ModuleType) -> None:
    start = dataclasses.replace(scene, report=None, uploads=Uploads())

    assert prometheus.lint(exposition(start)) == ""


def test_promtool_would_say_something(prometheus: ModuleType) -> None:
    assert "help" in prometheus.lint(b"# TYPE a gauge\na 1\n")


def test_every_metric_has_a_series(scene: Scene) -> None:
    empty = [family.name for family in FAMILIES if not family.collect(scene).samples]

    assert empty == []


@pytest.mark.parametrize(
    ("series", "value"),
    [
        pytest.param("semires_job_progress_ratio", 0.25, id="progress"),
        pytest.param("semires_job_epoch", 2, id="epoch"),
        pytest.param("semires_job_last_checkpoint_timestamp_seconds", BEGAN + 60, id="checkpoint-time"),
        pytest.param("semires_job_last_checkpoint_step", 240, id="checkpoint-step"),
        pytest.param('semires_train_loss{part="pwa"}', 0.05, id="loss"),
        pytest.param('semires_train_pseudo_label_match_ratio{strategy="CPI-U"}', 0.6, id="match"),
        pytest.param("semires_train_step_seconds_count", 40, id="steps"),
        pytest.param("semires_train_step_seconds_sum", 60, id="step-seconds"),
        pytest.param("semires_train_data_wait_seconds_total", 5, id="data-wait"),
        pytest.param("semires_train_goodput_ratio", 0.6, id="goodput"),
        pytest.param('semires_eval_oiou_ratio{model="teacher",split="val"}', 0.435, id="oiou-is-a-ratio"),
        pytest.param('semires_eval_miou_ratio{model="burn-in",split="val"}', 0.38, id="miou"),
        pytest.param('semires_checkpoint_upload_total{result="success"}', 2, id="uploads"),
        pytest.param('semires_checkpoint_upload_duration_seconds_sum{result="success"}', 9, id="upload-seconds"),
        pytest.param('semires_checkpoint_upload_bytes_total{result="failure"}', 10, id="upload-bytes"),
    ],
)
def test_a_metric_says_what_it_means(scene: Scene, series: str, value: float) -> None:
    assert series_of(scene)[series] == pytest.approx(value)


def test_what_is_not_known_yet_has_no_series(scene: Scene) -> None:
    found = series_of(dataclasses.replace(scene, report=None, uploads=Uploads()))

    assert not any("loss" in name or "eval" in name or "progress" in name or "last" in name for name in found)
    assert found["semires_train_goodput_ratio"] == 0
    assert found['semires_checkpoint_upload_total{result="failure"}'] == 0


HOSTILE = ['"} 1\nevil{a="', "\x1b[31m\x00", "\ud800", "x" * 10_000, "\\", "\u2028", ""]


def hostile_training() -> Training:
    """Everything that a manifest, or a file that another process wrote, may name."""
    names = [name.encode("utf-8", "replace").decode()[:64] for name in HOSTILE]
    evaluations = [
        EvaluationFigures(model=model, split=split, oIoU=1.0, mIoU=1.0)
        for model, split in itertools.product([*names, "teacher"], [*names, "val"])
    ]
    return Training(loss={name: 1.0 for name in [*names, "total"]}, match_ratio=0.5, evaluations=tuple(evaluations))


def hostile(scene: Scene, text: str, training: Training) -> Scene:
    assert scene.report is not None
    attempt = Attempt(job=text, job_uid=text, pod_uid=text, strategy=text, version=text, began=BEGAN)
    return dataclasses.replace(scene, attempt=attempt, report=scene.report.model_copy(update={"training": training}))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_name_adds_a_label_value_or_a_series(scene: Scene, prometheus: ModuleType, text: str) -> None:
    content = exposition(hostile(scene, text, hostile_training()))

    assert prometheus.lint(content) == ""
    families = {family.name: family for family in FAMILIES}
    for found in text_string_to_metric_families(content.decode()):
        for sample in found.samples:
            family = families.get(sample.name) or families[re.sub("_(count|sum)$", "", sample.name)]
            assert sorted(sample.labels) == sorted(family.labels)
            for label, value in sample.labels.items():
                assert value in family.labels[label] or (not family.labels[label] and len(value) <= IDENTITY_CHARACTERS)
    assert content.count(b"\nsemires_trainer_info{") == 1
    assert content.count(b"\nsemires_eval_oiou_ratio{") == 2


def test_the_number_of_series_is_bounded() -> None:
    """Identity counts once; a summary has two series."""
    bound = 0
    for family in FAMILIES:
        combinations = 1
        for values in family.labels.values():
            combinations *= max(1, len(values))
        bound += combinations * (2 if family.kind == "summary" else 1)

    assert bound < 100


def documented() -> list[tuple[str, ...]]:
    """Rows of the table of metrics: name, type, labels, meaning."""
    rows = re.findall(r"^\| `(semires_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    return [tuple(row) for row in rows]


def test_the_documentation_lists_every_metric_as_it_is() -> None:
    def labels(family: Any) -> str:
        listed = [(f"`{name}`", values) for name, values in family.labels.items()]
        return ", ".join(f"{name} ({', '.join(values)})" if values else name for name, values in listed)

    assert documented() == [(family.name, family.kind, labels(family), family.help) for family in FAMILIES]


def test_progress_is_the_document_of_the_design(scene: Scene) -> None:
    found = progress_document(scene)

    assert {key: found[key] for key in ("schemaVersion", "jobUid", "attempt", "podUid", "stage", "epoch", "step")} == {
        "schemaVersion": 1,
        "jobUid": "u",
        "attempt": 2,
        "podUid": "p",
        "stage": "train",
        "epoch": 2,
        "step": 240,
    }
    assert (found["progressPercentage"], found["estimatedRemainingSeconds"]) == (25, 300)
    assert {"name": "oIoU", "value": "43.5"} in found["metrics"]
    assert found["lastUpdatedTime"] == "2026-03-01T12:00:00.000Z"
    assert found["lastCheckpoint"] == {
        "uri": LAST.uri,
        "step": 240,
        "sha256": "a" * 64,
        "time": "2026-03-01T12:01:00.000Z",
    }


def test_progress_before_the_first_report_says_what_the_supervisor_does(scene: Scene) -> None:
    found = progress_document(dataclasses.replace(scene, report=None, uploads=Uploads()), stage="fetch")

    assert (found["stage"], found["epoch"], found["lastCheckpoint"], found["metrics"]) == ("fetch", None, None, [])
    assert found["lastUpdatedTime"] is None


def test_the_documentation_lists_every_field_of_progress(scene: Scene) -> None:
    assert fields_of("/progress") == list(progress_document(scene))


def test_the_documentation_lists_what_every_line_of_the_log_begins_with() -> None:
    stream = io.StringIO()
    JsonSink(stream).event(logging.INFO, "message", "text", {})

    assert fields_of("Log") == list(json.loads(stream.getvalue()))[:-1]


def test_the_documentation_asks_for_metrics_that_exist(scene: Scene) -> None:
    named = set(re.findall(r"semires_\w+", PAGE.read_text(encoding="utf-8")))
    exposed = {name.partition("{")[0] for name in series_of(scene)}

    assert named - {family.name for family in FAMILIES} <= exposed


def fields_of(section: str) -> list[str]:
    """Names in the table of a section of the documentation."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
