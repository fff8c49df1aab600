"""What `decide` is told of a job is put together from the store and from what the pods answer."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from semires_operator.discovery import Served
from semires_operator.kube import Api
from semires_operator.names import TRAINING, child_labels
from semires_operator.observe import Observer, waiting_for
from semires_operator.observed import Answer, Child, Observed, Pod
from semires_operator.polling import Poller, Read
from semires_operator.progress import told_progress
from semires_operator.seen import Job
from semires_operator.status import Progress, Status
from semires_operator.store import Kind, Store

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OWNER = {"kind": "SemiRESJob", "name": "refcoco", "uid": "job-uid", "controller": True}


class NothingElse:
    """An API server that has no more than the store."""

    async def list(self, *_: Any, **__: Any) -> tuple[list[Any], str]:
        return [], "0"

    async def find(self, *_: Any) -> None:
        return None


def job(**status: Any) -> Job:
    told = Status(attempt=1, **status)
    return Job(name="refcoco", namespace="team", uid="job-uid", generation=1, created=NOW, spec=None, status=told)


def put(store: Store, kind: Kind, name: str, *, owner: dict[str, Any] = OWNER, **body: Any) -> None:
    labels = child_labels("refcoco", "job-uid", 1, TRAINING)
    metadata = {"name": name, "namespace": "team", "uid": f"uid-of-{name}", "resourceVersion": "1"}
    store.put(kind, {"kind": kind, "metadata": {**metadata, "labels": labels, "ownerReferences": [owner]}, **body})


async def observe(store: Store, poller: Any, **status: Any) -> Observed:
    observer = Observer(
        cast(Api, NothingElse()),
        store=store,
        poller=cast(Poller, poller),
        served=Served,
        sees_nodes=False,
    )
    return await observer.observe(job(**status), NOW)


def test_kueues_workload_of_a_preflight_job_is_seen_until_there_is_a_pytorchjob(run):
    store = Store()
    waits = {"type": "QuotaReserved", "status": "False", "reason": "WaitingForQuota"}
    for kind, name in (("Job", "refcoco-p1"), ("PyTorchJob", "refcoco-a1")):
        owner = {"kind": kind, "name": name, "uid": f"uid-of-{name}", "controller": True}
        put(store, "Workload", f"of-{name}", owner=owner, status={"conditions": [waits]})
    put(store, "Job", "refcoco-p1", spec={"suspend": True})
    before = run(observe(store, Pages()))
    put(store, "PyTorchJob", "refcoco-a1")
    after = run(observe(store, Pages()))

    assert before.preflight.suspended_by_others
    assert (before.workload.name, before.workload.reason) == ("of-refcoco-p1", "WaitingForQuota")
    assert after.workload.name == "of-refcoco-a1"


class Pages:
    """Pods that answer these pages, in the order of their names."""

    def __init__(self, *pages: dict[str, Any]) -> None:
        self._pages = pages

    async def progress(self, pods: list[Pod], read: Read) -> list[Answer | None]:
        identity = {"schemaVersion": 1, "jobUid": "job-uid", "attempt": 1}
        told = zip(pods, self._pages, strict=True)
        return [read(pod, json.dumps({**identity, "podUid": pod.uid, **page}).encode()) for pod, page in told]


EMPTY, FULL = {"lastUpdatedTime": None}, {"lastUpdatedTime": NOW.isoformat(), "step": 121}


@pytest.mark.parametrize(
    ("pages", "step"),
    [
        pytest.param((EMPTY, FULL), 121, id="rank-0-is-on-the-second"),
        pytest.param((EMPTY, EMPTY), None, id="rank-0-has-ended"),
    ],
)
def test_a_node_without_rank_0_does_not_take_the_figures_away(run, pages, step):
    store = Store()
    owner = {"kind": "PyTorchJob", "name": "refcoco-a1", "uid": "uid-of-refcoco-a1", "controller": True}
    for name in ("refcoco-a1-master-0", "refcoco-a1-worker-0"):
        put(store, "Pod", name, owner=owner, status={"phase": "Running", "podIP": "10.0.0.1"})
    told = Progress(step=120, last_updated_time=NOW)

    answer = run(observe(store, Pages(*pages), progress=told, running_since=NOW)).answer

    assert (answer and told_progress(answer).step) == step


def pod_of_node(number: int, *, runs: bool) -> Pod:
    name = f"refcoco-a1-worker-{number}"
    phase, started = ("Running", NOW) if runs else ("Pending", None)
    return Pod(name=name, uid=name, role="training", attempt=1, phase=phase, created=NOW, started=started)


@pytest.mark.parametrize(
    ("run", "told"),
    [
        pytest.param((), ("child",), id="no pod yet"),
        pytest.param((False, False), ("child", "refcoco-a1-worker-0", "refcoco-a1-worker-1"), id="none runs"),
        pytest.param((True, False), ("child", "refcoco-a1-worker-1"), id="one of two runs"),
        pytest.param((True, True), (), id="all run"),
    ],
)
def test_events_are_read_of_what_is_waited_for(run: tuple[bool, ...], told: tuple[str, ...]) -> None:
    child = Child(name="refcoco-a1", uid="child", attempt=1, created=NOW, state="Created")
    pods = tuple(pod_of_node(number, runs=runs) for number, runs in enumerate(run))

    assert waiting_for(Observed(child=child, pods=pods)) == told
