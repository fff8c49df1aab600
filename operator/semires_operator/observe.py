"""Collects what `decide` is told of a job: from the store where the watches show it, from the API server where not.

What is there is believed; what seems not to be there is asked for. A watch is always a little late, and "the child
is gone" or "no pod is left" are what attempts begin and end by.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from semires_operator import kube, names
from semires_operator.decide import wants_log
from semires_operator.discovery import Served
from semires_operator.logs import log_tail
from semires_operator.observed import Answer, Child, Observed, Pod, Taken, Warning_
from semires_operator.polling import Poller
from semires_operator.progress import read_answer, speaking
from semires_operator.seen import (
    Job,
    is_ours,
    is_pod_of,
    newest_warnings,
    pod_of,
    preflight_of,
    pytorchjob_of,
    taken_of,
    workload_of,
)
from semires_operator.store import Kind, Raw, Store

logger = logging.getLogger(__name__)

MAX_TOLD_PODS = 4
"""Pods of a job whose events are asked for: those of one job fail alike."""


class Observer:
    """Looks at the cluster for one job at a time."""

    def __init__(
        self,
        api: kube.Api,
        *,
        store: Store,
        poller: Poller,
        served: Callable[[], Served],
        sees_nodes: bool,
    ) -> None:
        """served: the kinds of this cluster now; sees_nodes: false in namespaced mode, where nobody may."""
        self._api = api
        self._store = store
        self._poller = poller
        self._served = served
        self._sees_nodes = sees_nodes

    async def observe(self, job: Job, now: datetime) -> Observed:
        """Everything about a job. ApiError if the API server does not say."""
        preflight, child, taken = await self._children(job)
        pods = await self._pods(job, now)
        seen = Observed(
            preflight=preflight,
            child=child,
            old_children=self._old_children(job),
            taken=taken,
            pods=pods,
            backend=self._served().backend,
        )
        held = child or preflight
        if held is not None:
            workloads = self._store.of("Workload", held.uid)
            seen = replace(seen, workload=workload_of(workloads[0]) if workloads else None)
        seen = replace(
            seen,
            warnings=await self._warnings(job, waiting_for(seen)),
            answer=await self._answer(job, seen, now),
        )
        failed = wants_log(job, seen)
        if failed is None:
            return seen
        tail = await log_tail(self._api, job.namespace, failed.name, names.TRAINER_CONTAINER)
        return replace(seen, log_tail=tail)

    async def _children(self, job: Job) -> tuple[Child | None, Child | None, Taken | None]:
        """Preflight Job and PyTorchJob of the attempt in the status, and what has the name of one and is not ours."""
        attempt, status = job.status.attempt, job.status
        if attempt == 0:
            return None, None, None
        over = status.completion_time is not None
        checked = status.preflight is not None and status.preflight.attempt == attempt
        raw, taken = await self._find("PyTorchJob", names.child_name(job.name, attempt), job, ask=not over)
        child = pytorchjob_of(raw) if raw else None
        ask = not (over or checked or child is not None)
        raw, other = await self._find("Job", names.preflight_name(job.name, attempt), job, ask=ask)
        return preflight_of(raw) if raw else None, child, taken or other

    async def _find(self, kind: Kind, name: str, job: Job, *, ask: bool) -> tuple[Raw | None, Taken | None]:
        """A child by its name; if the store has none and `ask`, as the API server has it."""
        known = [raw for raw in self._store.of(kind, job.uid) if raw["metadata"]["name"] == name and is_ours(raw, job)]
        if known or not ask or (kind == "PyTorchJob" and not self._served().pytorchjobs):
            return (known[0] if known else None), None
        raw = await self._api.find(kube.JOBS if kind == "Job" else kube.PYTORCHJOBS, job.namespace, name)
        if raw is None:
            return None, None
        raw.setdefault("kind", kind)
        if is_ours(raw, job):
            self._store.put(kind, raw)
            return raw, None
        return None, taken_of(raw, job_uid=job.uid, owner_is_there=not _was_ours(raw, job))

    def _old_children(self, job: Job) -> tuple[Child, ...]:
        children = [pytorchjob_of(raw) for raw in self._store.of("PyTorchJob", job.uid) if is_ours(raw, job)]
        return tuple(child for child in children if child.attempt < job.status.attempt)

    async def _pods(self, job: Job, now: datetime) -> tuple[Pod, ...]:
        """Pods of any attempt. If none seems to be alive, the API server is asked."""
        over = job.status.attempt == 0 or job.status.completion_time is not None
        pods = await self._known_pods(job, now)
        if over or any(pod.alive for pod in pods):
            return pods
        selector = f"{names.JOB_UID_LABEL}={job.uid}"
        listed, version = await self._api.list(kube.PODS, job.namespace, label_selector=selector)
        self._store.refresh("Pod", job.uid, listed, version)
        return await self._known_pods(job, now)

    async def _known_pods(self, job: Job, now: datetime) -> tuple[Pod, ...]:
        raws = [raw for raw in self._store.of("Pod", job.uid) if is_pod_of(raw, job)]
        overdue = {raw["spec"].get("nodeName", "") for raw in raws if _is_overdue(raw, now)}
        ready = {node: await self._is_ready(node) for node in overdue if node and self._sees_nodes}
        nodes = {node: state for node, state in ready.items() if state is not None}
        return tuple(sorted((pod_of(raw, nodes) for raw in raws), key=lambda pod: (pod.created, pod.name)))

    async def _is_ready(self, node: str) -> bool | None:
        """Whether a node is ready; a node that is gone is not. None if we may not know."""
        try:
            raw = await self._api.find(kube.NODES, None, node)
        except kube.ApiError as error:
            if error.code != 403:
                raise
            return None
        conditions = ((raw or {}).get("status") or {}).get("conditions") or ()
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    async def _warnings(self, job: Job, uids: tuple[str, ...]) -> tuple[Warning_, ...]:
        """Newest Warning events about these objects."""
        events: list[Raw] = []
        for uid in uids:
            about = f"involvedObject.uid={uid},type=Warning"
            events += (await self._api.list(kube.CORE_EVENTS, job.namespace, field_selector=about))[0]
        return newest_warnings(events)

    async def _answer(self, job: Job, seen: Observed, now: datetime) -> Answer | None:
        """What the pods of the attempt answer."""
        attempt = job.status.attempt

        def read(pod: Pod, content: bytes) -> Answer | None:
            return read_answer(content, job_uid=job.uid, attempt=attempt, pod=pod.name, pod_uid=pod.uid, now=now)

        pods = [pod for pod in seen.pods if pod.attempt == attempt]
        return speaking(await self._poller.progress(pods, read), job.status)


def waiting_for(seen: Observed) -> tuple[str, ...]:
    """UIDs of a child that should run and of those of its pods that don't; their events tell why."""
    for child, role in ((seen.child, names.TRAINING), (seen.preflight, names.PREFLIGHT)):
        if child is None or child.ended:
            continue
        pods = [pod for pod in seen.pods if pod.role == role and pod.attempt == child.attempt]
        waiting = [pod.uid for pod in pods if not (pod.phase == "Running" and pod.started is not None)]
        return (child.uid, *waiting[:MAX_TOLD_PODS]) if waiting or not pods else ()
    return ()


def _is_overdue(raw: Raw, now: datetime) -> bool:
    """Whether a pod should have ended by now: its deletionTimestamp is when its grace period ends."""
    end = raw["metadata"].get("deletionTimestamp")
    return end is not None and datetime.fromisoformat(end) < now


def _was_ours(raw: Raw, job: Job) -> bool:
    """Whether the owner was a job of this name: then it is gone, and its child will follow."""
    owners = raw["metadata"].get("ownerReferences") or ()
    return any(owner["kind"] == names.KIND and owner["name"] == job.name for owner in owners)
