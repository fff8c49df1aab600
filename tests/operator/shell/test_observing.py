"""What `decide` is told of a job is put together from the store and from what the pods answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from semires_operator.discovery import Served
from semires_operator.kube import Api
from semires_operator.observe import Observer
from semires_operator.observed import Observed
from semires_operator.polling import Poller
from semires_operator.seen import Job
from semires_operator.status import Status
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


def put(store: Store, kind: Kind, name: str, *, owner: dict[str, Any] = OWNER, **body: Any) -> dict[str, Any]:
    labels = {"semires.dev/job": "refcoco", "semires.dev/job-uid": "job-uid", "semires.dev/attempt": "1"}
    metadata = {"name": name, "namespace": "team", "uid": f"uid-of-{name}", "resourceVersion": "1"}
    raw = {"kind": kind, "metadata": {**metadata, "labels": labels, "ownerReferences": [owner]}, **body}
    store.put(kind, raw)
    return raw


async def observe(store: Store, poller: Any = None, **status: Any) -> Observed:
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
    before = run(observe(store))
    put(store, "PyTorchJob", "refcoco-a1")
    after = run(observe(store))

    assert before.preflight.suspended_by_others
    assert (before.workload.name, before.workload.reason) == ("of-refcoco-p1", "WaitingForQuota")
    assert after.workload.name == "of-refcoco-a1"
