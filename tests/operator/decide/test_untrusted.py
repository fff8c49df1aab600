"""What comes out of pods is checked: whoever runs in one may write anything."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semires_operator.observed import Answer
from semires_operator.outcome import read_outcome
from semires_operator.progress import METRIC_NAMES, read_answer, speaking, told_checkpoint, told_progress
from semires_operator.status import Progress, Status
from semires_operator.untrusted import clean, moment
from semires_trainer.orders import Attempt
from semires_trainer.outcome import End, encoded, outcome_json
from semires_trainer.progress_file import METRIC_NAMES as METRICS_OF_THE_TRAINER

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHECKPOINT = {"uri": "s3://results/step-120", "step": 120, "sha256": "a" * 64, "time": "2026-03-01T11:59:00.000Z"}
DOCUMENT: dict[str, Any] = {
    "schemaVersion": 1,
    "jobUid": "job",
    "attempt": 2,
    "podUid": "pod",
    "stage": "train",
    "epoch": 12,
    "epochs": 40,
    "step": 120,
    "steps": 400,
    "progressPercentage": 31,
    "estimatedRemainingSeconds": 18000,
    "metrics": [{"name": "loss", "value": "0.5"}],
    "lastUpdatedTime": "2026-03-01T11:59:58.500Z",
    "lastCheckpoint": CHECKPOINT,
}
TEXT = st.text("a1.-:/\x00\n\ud800é", max_size=8)
Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


def read(content: bytes | dict[str, Any]) -> Answer | None:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_answer(raw, job_uid="job", attempt=2, pod="a2-master-0", pod_uid="pod", now=NOW)


def test_a_trainers_answer_is_read() -> None:
    answer = read(DOCUMENT)
    assert answer is not None
    progress, checkpoint = told_progress(answer), told_checkpoint(answer)

    assert (progress.stage, progress.epoch, progress.step, progress.progress_percentage) == ("train", 12, 120, 31)
    assert progress.last_updated_time == NOW - timedelta(seconds=2)
    assert checkpoint is not None
    assert checkpoint.step == 120


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"jobUid": "other"}, id="other-job"),
        pytest.param({"attempt": 1}, id="other-attempt"),
        pytest.param({"attempt": "2"}, id="attempt-as-text"),
        pytest.param({"podUid": "other"}, id="other-pod"),
        pytest.param({"schemaVersion": 2}, id="newer-schema"),
        pytest.param({"step": -1}, id="negative"),
        pytest.param({"step": 1.5}, id="fraction"),
        pytest.param({"step": True}, id="bool"),
        pytest.param({"step": 2**60}, id="too-great"),
        pytest.param({"progressPercentage": 101}, id="more-than-all"),
        pytest.param({"lastUpdatedTime": "2026-03-01T12:00:00"}, id="no-time-zone"),
        pytest.param({"lastUpdatedTime": "0001-01-01T00:00:00+14:00"}, id="before-all-times"),
        pytest.param({"lastUpdatedTime": 5}, id="no-time"),
        pytest.param({"metrics": {"loss": 1}}, id="metrics-are-no-list"),
        pytest.param({"metrics": [{"name": "loss", "value": 0.5}]}, id="value-is-no-text"),
        pytest.param({"metrics": [{"name": "loss", "value": "nan"}]}, id="nan"),
        pytest.param({"metrics": [{"name": "loss", "value": "1e999"}]}, id="infinite-text"),
        pytest.param({"metrics": [{"name": "loss", "value": "0.5"}] * 65}, id="too-many-metrics"),
    ],
)
def test_an_answer_that_is_not_of_this_pod_or_not_valid_is_ignored(change: dict[str, Any]) -> None:
    assert read({**DOCUMENT, **change}) is None


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>", id="no-json"),
        pytest.param(b"[]", id="no-object"),
        pytest.param(b"\xff\xfe", id="no-utf8"),
        pytest.param(b"[" * 60000, id="deep"),
        pytest.param(b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}", id="deep-and-closed"),
        pytest.param(b'{"step": ' + b"9" * 5000 + b"}", id="long-number"),
        pytest.param(json.dumps(DOCUMENT).encode().replace(b"120", b"1e999"), id="infinite-number"),
        pytest.param(json.dumps(DOCUMENT).encode().replace(b"120", b"NaN"), id="nan"),
        pytest.param(json.dumps({**DOCUMENT, "more": "x" * (64 << 10)}).encode(), id="too-long"),
    ],
)
def test_nonsense_is_ignored(content: bytes) -> None:
    assert read(content) is None


def page(step: int, *, pod: str, told: float | None) -> Answer:
    time = (NOW - timedelta(seconds=told)).isoformat() if told is not None else None
    answer = read({**DOCUMENT, "step": step, "lastUpdatedTime": time})
    assert answer is not None
    return replace(answer, pod=pod)


RUNS = Status(running_since=NOW - timedelta(minutes=10))
HAS_TOLD = RUNS.model_copy(update={"progress": Progress(last_updated_time=NOW - timedelta(minutes=1))})
RUNS_AGAIN = RUNS.model_copy(update={"progress": Progress(last_updated_time=NOW - timedelta(minutes=20))})
RANK_0, OLDER, EMPTY = page(8, pod="rank-0", told=2), page(7, pod="older", told=9), page(0, pod="empty", told=None)


@pytest.mark.parametrize(
    ("answers", "status", "speaks"),
    [
        pytest.param([EMPTY, RANK_0], HAS_TOLD, RANK_0, id="rank-0-is-not-the-first"),
        pytest.param([OLDER, RANK_0], HAS_TOLD, RANK_0, id="the-newest-report"),
        pytest.param([None, EMPTY], HAS_TOLD, None, id="rank-0-missed-a-poll"),
        pytest.param([None, RANK_0], RUNS, RANK_0, id="another-missed-a-poll"),
        pytest.param([EMPTY], HAS_TOLD, None, id="only-rank-0-has-ended"),
        pytest.param([EMPTY], Status(), EMPTY, id="just-begun"),
        pytest.param([EMPTY, EMPTY], RUNS, EMPTY, id="all-start"),
        pytest.param([EMPTY, None], RUNS, None, id="one-cannot-be-asked-at-the-start"),
        pytest.param([EMPTY, EMPTY], RUNS_AGAIN, EMPTY, id="all-start-again"),
        pytest.param([], RUNS, None, id="nobody"),
    ],
)
def test_who_speaks_for_the_attempt(answers: list[Answer | None], status: Status, speaks: Answer | None) -> None:
    assert speaking(answers, status) == speaks


def test_unknown_fields_and_metrics_are_left_out() -> None:
    metrics = [{"name": "password", "value": "1"}, {"name": "loss", "value": "0.5"}, {"name": "loss", "value": "9"}]
    answer = read({**DOCUMENT, "metrics": metrics, "more": 1})
    assert answer is not None

    assert [(metric.name, metric.value) for metric in told_progress(answer).metrics] == [("loss", "0.5")]
    assert set(answer.document) == {"progress", "lastCheckpoint"}


def test_control_characters_are_taken_out() -> None:
    answer = read({**DOCUMENT, "stage": "tr\x1b[31mai\x00n\ud800\n" + "x" * 100})
    assert answer is not None

    assert told_progress(answer).stage == ("tr[31main " + "x" * 100)[:64].strip()
    assert clean("a\u202eb\x07c", longest=10) == "abc"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"uri": "s3://a\nb"}, id="two-lines"),
        pytest.param({"uri": ""}, id="empty"),
        pytest.param({"uri": "x" * 2049}, id="long"),
        pytest.param({"step": None}, id="no-step"),
        pytest.param({"sha256": "A" * 64}, id="no-sha256"),
    ],
)
def test_a_checkpoint_that_is_none_is_left_out(change: dict[str, Any]) -> None:
    answer = read({**DOCUMENT, "lastCheckpoint": {**CHECKPOINT, **change}})

    assert answer is not None
    assert told_checkpoint(answer) is None


def test_a_clock_that_is_ahead_hides_no_standstill() -> None:
    answer = read({**DOCUMENT, "lastUpdatedTime": "2027-01-01T00:00:00Z"})
    assert answer is not None

    assert told_progress(answer).last_updated_time == NOW


def test_the_known_metrics_are_the_trainers() -> None:
    assert METRIC_NAMES == METRICS_OF_THE_TRAINER


@given(change=st.dictionaries(st.sampled_from(sorted(DOCUMENT)), Json, max_size=3))
def test_an_answer_is_a_valid_status_or_ignored(change: dict[str, Any]) -> None:
    answer = read(json.dumps({**DOCUMENT, **change}).encode())

    assert answer is None or told_progress(answer).step >= 0


@given(content=st.binary(max_size=200) | Json.map(lambda value: json.dumps(value).encode()))
def test_no_content_is_a_crash(content: bytes) -> None:
    assert read(content) is None
    assert read_outcome(content.decode("utf-8", "replace"), job_uid="job", attempt=2) is None


ATTEMPT = Attempt(job="refcoco", job_uid="job", number=2, pod_uid="pod")


def test_a_trainers_outcome_is_read() -> None:
    score = {"model": "teacher", "split": "val", "size": "480", "oIoU": 47.3125, "mIoU": 50.0}
    best = {**CHECKPOINT, "oIoU": 47.3125}
    document = outcome_json(ATTEMPT, None, results=[score], best_checkpoint=best, last_checkpoint=CHECKPOINT)
    outcome = read_outcome(encoded(document).decode(), job_uid="job", attempt=2)
    assert outcome is not None

    assert (outcome.exit_code, outcome.results[0].overall_iou, outcome.results[0].mean_iou) == (0, "47.3125", "50")
    assert outcome.best_checkpoint == outcome.last_checkpoint
    assert outcome.best_checkpoint is not None


def test_a_trainers_error_is_read() -> None:
    end = End(exit_code=6, reason="GpuMemory", message="Too\x00 little.", field="spec.training", micro_batch=6)
    outcome = read_outcome(encoded(outcome_json(ATTEMPT, end)).decode(), job_uid="job", attempt=2)
    assert outcome is not None

    assert (outcome.reason, outcome.message, outcome.field) == ("GpuMemory", "Too little.", "spec.training")
    assert outcome.micro_batch == 6


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"jobUid": "other"}, id="other-job"),
        pytest.param({"attempt": 1}, id="other-attempt"),
        pytest.param({"schemaVersion": 2}, id="newer-schema"),
        pytest.param({"exitCode": "0"}, id="no-code"),
    ],
)
def test_an_outcome_of_another_is_ignored(change: dict[str, Any]) -> None:
    document = json.dumps({**outcome_json(ATTEMPT, None), **change})

    assert read_outcome(document, job_uid="job", attempt=2) is None


def test_parts_of_an_outcome_that_do_not_fit_are_left_out() -> None:
    bad = [{"model": "teacher", "oIoU": "high"}, 5, {"oIoU": 101, "mIoU": 5}]
    found = {"images": -1, "labeled": 7, "stagesDone": ["propose", 5], "warnings": "none", "previousOutcome": {}}
    document = {**outcome_json(ATTEMPT, None), "results": bad, "bestCheckpoint": [], "preflight": found}
    outcome = read_outcome(json.dumps(document), job_uid="job", attempt=2)
    assert outcome is not None

    assert (outcome.results, outcome.best_checkpoint) == ((), None)
    assert outcome.check is not None
    assert (outcome.check.found.images, outcome.check.found.labeled) == (None, 7)
    assert (outcome.check.found.stages_done, outcome.check.previous) == (("propose",), None)


CREDENTIALS = [
    pytest.param("https://user:hunter2@s3.example.com/b is denied", "hunter2", id="url-with-user"),
    pytest.param("GET https://s3/b/k?X-Amz-Signature=0123abcd&x=1 failed", "0123abcd", id="presigned-url"),
    pytest.param("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI is wrong", "wJalrXUtnFEMI", id="variable"),
]


@pytest.mark.parametrize(("text", "secret"), CREDENTIALS)
def test_an_outcome_tells_no_credentials(text: str, secret: str) -> None:
    error = {"reason": text, "message": text, "field": text}
    document = {**outcome_json(ATTEMPT, None), "error": error, "preflight": {"warnings": [text]}}
    outcome = read_outcome(json.dumps(document), job_uid="job", attempt=2)

    assert outcome is not None
    assert "[removed]" in outcome.message
    assert secret not in str(outcome)


def test_a_credential_is_not_cut_before_it_is_looked_for() -> None:
    text = "x " * 120 + "see https://user:" + "hunter2" * 10 + "@s3.example.com"
    document = {**outcome_json(ATTEMPT, None), "error": {"field": text}}
    outcome = read_outcome(json.dumps(document), job_uid="job", attempt=2)

    assert outcome is not None
    assert "hunter2" not in outcome.field


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"sha256 {'9f86d081' * 8} was expected.", id="digest"),
        pytest.param("s3://results/refcoco-1pct/checkpoints/step-00000120-9f86d081884c7d65 can't be read.", id="uri"),
        pytest.param("/data/RefCOCO/images/train2014/COCO_train2014_000000000009.jpg does not exist.", id="path"),
        pytest.param("spec.storage.credentialsSecret: AccessDenied. Give the keys.", id="field-and-reason"),
    ],
)
def test_what_helps_in_an_outcome_is_kept(text: str) -> None:
    document = {**outcome_json(ATTEMPT, None), "stopped": {"message": text}}
    outcome = read_outcome(json.dumps(document), job_uid="job", attempt=2)

    assert outcome is not None
    assert outcome.message == text


def test_what_an_earlier_preflight_found_is_not_read() -> None:
    earlier = {**outcome_json(ATTEMPT, None), "preflight": {"stagesDone": ["propose"]}}
    del earlier["attempt"]
    document = {**outcome_json(ATTEMPT, None), "preflight": {"complete": True, "previousOutcome": earlier}}
    outcome = read_outcome(json.dumps(document), job_uid="job", attempt=2)

    assert outcome is not None
    assert outcome.check is not None
    assert outcome.check.previous is not None
    assert outcome.check.previous.check is None


OUTCOME = st.fixed_dictionaries(
    {"schemaVersion": st.just(1), "jobUid": st.just("job"), "attempt": st.just(2) | Json, "exitCode": st.just(0)},
    optional={name: Json for name in ("results", "bestCheckpoint", "lastCheckpoint", "error", "stopped")},
)
FOUND = st.fixed_dictionaries(
    {},
    optional={
        "complete": Json,
        "images": Json,
        "stagesDone": Json | st.lists(TEXT, max_size=12),
        "warnings": Json | st.lists(TEXT, max_size=12),
        "lastCheckpoint": Json,
        "previousOutcome": Json | OUTCOME.map(lambda earlier: {**earlier, "attempt": -1, "preflight": {"images": 5}}),
    },
)


@given(outcome=OUTCOME, found=st.none() | Json | FOUND)
def test_no_outcome_is_a_crash(outcome: dict[str, Any], found: Any) -> None:
    content = json.dumps({**outcome, "preflight": found})

    read_outcome(content, job_uid="job", attempt=2)


@given(parts=st.lists(Json | st.sampled_from([5, "a" * 4000, {"a": [{}]}, 10**30]), min_size=6, max_size=6))
def test_no_part_of_an_outcome_is_a_crash(parts: list[Any]) -> None:
    names = ("results", "bestCheckpoint", "error", "stopped", "preflight", "exitCode")
    content = json.dumps({**outcome_json(ATTEMPT, None), **dict(zip(names, parts, strict=True))})

    read_outcome(content, job_uid="job", attempt=2)


@pytest.mark.parametrize("text", [pytest.param("yesterday", id="word"), pytest.param("9" * 70, id="long")])
def test_a_time_that_is_none_is_none(text: str) -> None:
    assert moment(text) is None
