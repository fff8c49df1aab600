"""A log is read whole and once: over cut streams, pods that come and go, attempts that follow one another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from semires_operator.client import Job, LogRequest, NoLog, Unreachable
from semires_operator.client.logs import LogReader

RUNNING, ENDED, WAITING = {"running": {}}, {"terminated": {"exitCode": 0}}, {"waiting": {"reason": "x"}}


def pod(
    attempt: int = 1, *, state: dict[str, Any] | None = None, role: str = "training", index: int = 0
) -> dict[str, Any]:
    name = f"refcoco-a{attempt}-{role}-{index}"
    labels = {
        "semires.dev/attempt": str(attempt),
        "semires.dev/role": role,
        "training.kubeflow.org/replica-index": str(index),
    }
    container = "preflight" if role == "preflight" else "pytorch"
    return {
        "metadata": {"name": name, "uid": name, "labels": labels, "creationTimestamp": f"2026-11-25T0{attempt}:00:00Z"},
        "status": {"phase": "Running", "containerStatuses": [{"name": container, "state": state or ENDED}]},
    }


def stamped(*texts: str, start: int = 0) -> list[str]:
    return [f"2026-11-25T09:00:{start + place:02}.000000000Z {text}" for place, text in enumerate(texts)]


@dataclass
class Cluster:
    """Pods and logs of a job, one list or log a look; the last stays."""

    pods: list[list[dict[str, Any]]]
    logs: dict[str, list[Iterable[str]]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def list_pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        found = self.pods.pop(0) if len(self.pods) > 1 else self.pods[0]
        wanted = dict(part.split("=") for part in selector.split(",")[1:])
        return [one for one in found if wanted.items() <= one["metadata"]["labels"].items()]

    def read_log(self, namespace: str, pod: str, container: str, **options: Any) -> Generator[str]:
        self.asked.append({"pod": pod, "container": container, **options})
        logs = self.logs[pod]
        yield from logs.pop(0) if len(logs) > 1 else logs[0]


def cut_after(*lines: str) -> Generator[str]:
    yield from lines
    raise Unreachable("cut")


def read(cluster: Cluster, job: Job | Callable[[], Job], **request: Any) -> list[tuple[int, str]]:
    look = job if callable(job) else lambda: job
    reader = LogReader(source=cluster, look=look, request=LogRequest(**request), sleep=lambda _: None)
    return [(line.attempt, line.text) for line in reader.lines()]


@pytest.fixture
def over(make_job, make_condition) -> Job:
    return make_job(phase="Succeeded", attempt=2, conditions=[make_condition("Complete")])


def test_the_newest_attempt_is_read(over: Job) -> None:
    cluster = Cluster([[pod(1), pod(2)]], {"refcoco-a2-training-0": [stamped("a", "b")]})

    assert read(cluster, over) == [(2, "a"), (2, "b")]


def test_an_attempt_and_the_preflight_can_be_named(over: Job) -> None:
    logs = {"refcoco-a1-training-0": [stamped("old")], "refcoco-a2-preflight-0": [stamped("checked")]}
    cluster = Cluster([[pod(1), pod(2), pod(2, role="preflight")]], logs)

    assert read(cluster, over, attempt=1) == [(1, "old")]
    assert read(cluster, over, role="preflight") == [(2, "checked")]
    assert cluster.asked[-1]["container"] == "preflight"


def test_a_rank_is_read_from_its_node_and_alone(over: Job) -> None:
    lines = stamped('{"rank": 5, "message": "a"}', '{"rank": 4, "message": "b"}', "no json")
    cluster = Cluster([[pod(2), pod(2, index=1)]], {"refcoco-a2-training-1": [lines]})

    assert read(cluster, over, rank=5) == [(2, '{"rank": 5, "message": "a"}')]


def test_a_cut_stream_goes_on_without_repeating_a_line(over: Job) -> None:
    whole = stamped("a", "b", "c", "d")
    cluster = Cluster([[pod(state=RUNNING)], [pod()]], {"refcoco-a1-training-0": [cut_after(*whole[:2]), whole]})

    assert read(cluster, over, follow=True) == [(1, text) for text in "abcd"]
    assert cluster.asked[1]["since_seconds"] > 0


def test_lines_of_one_instant_are_all_read(over: Job) -> None:
    lines = [*stamped("a"), *stamped("b"), *stamped("c")]
    cluster = Cluster([[pod()]], {"refcoco-a1-training-0": [lines]})

    assert [text for _, text in read(cluster, over)] == ["a", "b", "c"]


def test_what_comes_between_the_last_look_and_the_end_is_read(over: Job) -> None:
    logs = [stamped("a"), stamped("a", "last words")]
    cluster = Cluster([[pod(state=RUNNING)], [pod()]], {"refcoco-a1-training-0": logs})

    assert [text for _, text in read(cluster, over, follow=True)] == ["a", "last words"]


def test_following_goes_over_to_the_next_attempt(make_job, over: Job) -> None:
    jobs = itertools.chain([make_job(phase="Running", attempt=1)] * 3, itertools.repeat(over))
    first, second = pod(1), pod(2)
    looks = [[], [pod(1, state=WAITING)], [first], [first, second], [first, second]]
    logs = {"refcoco-a1-training-0": [stamped("one")], "refcoco-a2-training-0": [stamped("two")]}

    assert read(Cluster(looks, logs), lambda: next(jobs), follow=True) == [(1, "one"), (2, "two")]


def test_following_a_named_attempt_ends_with_it(make_job) -> None:
    job = make_job(phase="Retrying", attempt=1, attempts=[{"number": 1, "ended": "Failed"}])
    cluster = Cluster([[pod(1)]], {"refcoco-a1-training-0": [stamped("one")]})

    assert read(cluster, job, follow=True, attempt=1) == [(1, "one")]


def test_when_the_pods_are_gone_the_kept_lines_are_there(make_job) -> None:
    attempts = [
        {"number": number, "ended": "Failed", "failure": {"reason": "Unexpected", "logTail": f"x{number}\ny{number}"}}
        for number in (1, 2)
    ]
    job = make_job(phase="Failed", attempt=2, attempts=attempts)

    assert read(Cluster([[]]), job) == [(2, "x2"), (2, "y2")]
    assert read(Cluster([[]]), job, attempt=1) == [(1, "x1"), (1, "y1")]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        pytest.param({"phase": "Queued", "message": "No quota."}, "semires logs refcoco --follow", id="waiting"),
        pytest.param({"phase": "Preflight"}, "semires logs refcoco --preflight", id="preflight"),
    ],
)
def test_no_log_is_told_with_the_state_and_what_to_do(make_job, status: dict[str, str], words: str) -> None:
    with pytest.raises(NoLog, match=words) as caught:
        read(Cluster([[]]), make_job(**status))

    assert status["phase"] in str(caught.value)


class Clock:
    """Time that passes with each look and with each wait."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def test_a_container_that_is_silent_for_long_is_followed_on(over: Job) -> None:
    clock = Clock()

    def silent(*lines: str) -> Generator[str]:
        yield from lines
        clock.pass_by(400)
        raise Unreachable("Read timed out")

    said = stamped("a", "b")
    logs = [silent(said[0]), silent(), silent(), said]
    cluster = Cluster([[pod(state=RUNNING)]] * 4 + [[pod()]], {"refcoco-a1-training-0": logs})
    reader = LogReader(
        source=cluster, look=lambda: over, request=LogRequest(follow=True), clock=clock, sleep=clock.pass_by
    )

    assert [line.text for line in reader.lines()] == ["a", "b"]


@pytest.mark.parametrize("away", [pytest.param(60.0, id="a minute"), pytest.param(3600.0, id="an hour")])
def test_an_api_server_that_is_away_while_a_pod_is_waited_for_is_borne_for_a_while(make_job, away: float) -> None:
    clock, running = Clock(), make_job(phase="Pending", attempt=1)
    cluster = Cluster([[], [pod()], [pod()]], {"refcoco-a1-training-0": [stamped("a")]})
    looks = itertools.count()

    def look() -> Job:
        if next(looks) and clock.now < away:
            raise Unreachable("the API server could not answer (503)")
        return make_job(phase="Failed", attempt=1) if clock.now > away else running

    reader = LogReader(source=cluster, look=look, request=LogRequest(follow=True), clock=clock, sleep=clock.pass_by)
    if away > 300:
        with pytest.raises(Unreachable):
            list(reader.lines())
    else:
        first = next(reader.lines())
        assert first.text == "a"


def test_of_a_finished_job_the_whole_log_is_named(over: Job) -> None:
    with pytest.raises(NoLog, match=r"The whole log is s3://results/refcoco/log-a2.jsonl"):
        read(Cluster([[]]), over)


def test_a_log_that_stays_away_is_told(over: Job) -> None:
    cluster = Cluster([[pod()]], {"refcoco-a1-training-0": [cut_after("x")]})

    with pytest.raises(Unreachable):
        read(cluster, over)
