"""One look at a job: observe, decide, write the status, and only then act. Safe to run any number of times."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from semires_operator import events, kube
from semires_operator.actions import Action, AskCheckpoint, Create, Decision, Delete, Note
from semires_operator.log_lines import JOB
from semires_operator.metrics import Metrics
from semires_operator.observed import Observed, Refusal
from semires_operator.polling import Poller
from semires_operator.reasons import Reason
from semires_operator.seen import Job, controller_of, job_of
from semires_operator.store import Key, Kind, Raw, Store
from semires_operator.work_queue import Again

logger = logging.getLogger(__name__)

RESOURCES: Mapping[str, kube.Resource] = {
    "Job": kube.JOBS,
    "PyTorchJob": kube.PYTORCHJOBS,
    "SemiRESJob": kube.SEMIRESJOBS,
}
CONFLICT_SECONDS = 0.1
INVALID = 422
Observe = Callable[[Job, datetime], Awaitable[Observed]]
Decide = Callable[[Job, Observed, datetime], Decision]


class _Changed(Exception):
    """The job is no longer what was looked at."""


class Reconciler:
    """Looks at jobs, each at most once at a time."""

    def __init__(
        self,
        api: kube.Api,
        *,
        observe: Observe,
        decide: Decide,
        poller: Poller,
        store: Store,
        metrics: Metrics,
        instance: str,
    ) -> None:
        """instance: this process, as events name it."""
        self._api = api
        self._observe = observe
        self._decide = decide
        self._poller = poller
        self._store = store
        self._metrics = metrics
        self._instance = instance

    async def look(self, key: Key) -> float | None:
        """Look at a job; the seconds after which it wants to be looked at again. Again if the API server failed."""
        JOB.set(key)
        began, result = time.monotonic(), "error"
        try:
            after = await self._look(*key)
            result = "ok"
        except _Changed:
            result = "conflict"
            return CONFLICT_SECONDS
        except kube.ApiError as error:
            raise Again(f"The job is looked at again: {error}", after=error.retry_after or 0) from error
        finally:
            self._metrics.reconciles.labels(result).inc()
            self._metrics.reconcile_seconds.observe(time.monotonic() - began)
        return after

    async def _look(self, namespace: str, name: str) -> float | None:
        job = await self._api.find(kube.SEMIRESJOBS, namespace, name)
        if job is None:
            self._metrics.jobs.forget(namespace, name)
            return None
        self._metrics.jobs.show(job)
        if "deletionTimestamp" in job["metadata"]:  # its children follow it; nothing of ours holds it back
            return None
        read = job_of(job)
        seen = await self._observe(read, now())
        decision = self._decide(read, seen, now())
        try:
            job = await self._record(job, decision.status)
        except kube.ApiError as error:
            if error.code == INVALID:
                await self._tell_unwritable(job, read, error)
            raise
        refusal = await self._act(job, seen, decision)
        if refusal is None:
            return decision.requeue_after
        logger.warning("%s was refused: %d %s: %s", refusal.action, refusal.code, refusal.reason, refusal.message)
        decision = self._decide(job_of(job), replace(seen, refusal=refusal), now())
        job = await self._record(job, decision.status)
        await self._tell(job, decision)
        return decision.requeue_after

    async def _record(self, job: Raw, status: dict[str, Any]) -> Raw:
        """Make the status of the job this one, if it is another; the job as it is then."""
        patch = merge_patch_of(job.get("status") or {}, status)
        if patch:
            metadata = job["metadata"]
            try:
                job = await self._api.merge_patch(
                    kube.SEMIRESJOBS,
                    metadata["namespace"],
                    metadata["name"],
                    {"status": patch},
                    resource_version=metadata["resourceVersion"],
                    subresource="status",
                )
            except kube.ApiError as error:
                if error.code == 409:
                    raise _Changed from error
                raise
            self._metrics.jobs.show(job)
        return job

    async def _act(self, job: Raw, seen: Observed, decision: Decision) -> Refusal | None:
        """Do what was decided, in order, and tell it; what the API server refused, if it did.

        A passing failure is raised after telling: the transition is recorded, so nobody would tell it later.
        """
        refusal: Refusal | None = None
        failure: Exception | None = None
        for action in decision.actions:
            try:
                await self._do(job, seen, action)
            except Again as again:
                failure = again
                break
            except kube.ApiError as error:
                if error.transient or error.code == 409:
                    failure = error
                else:
                    refusal = Refusal(
                        action=describe(action), code=error.code, reason=error.reason, message=error.message
                    )
                break
        await self._tell(job, decision)
        if failure is not None:
            raise failure
        return refusal

    async def _do(self, job: Raw, seen: Observed, action: Action) -> None:
        namespace = job["metadata"]["namespace"]
        if isinstance(action, Create):
            await self._create(namespace, job["metadata"]["uid"], action.body)
        elif isinstance(action, Delete):
            await self._api.delete(RESOURCES[action.kind], namespace, action.name, uid=action.uid)
            gone = {"metadata": {"namespace": namespace, "name": action.name, "uid": action.uid}}
            self._store.drop(action.kind, gone)
            logger.info("Deleted %s %s.", action.kind, action.name)
        elif isinstance(action, AskCheckpoint):
            asked = [pod for pod in seen.pods if pod.name == action.pod and pod.ip == action.ip]
            await asyncio.gather(*(self._poller.request_checkpoint(pod) for pod in asked))

    async def _create(self, namespace: str, job_uid: str, body: Raw) -> None:
        """POST a child. One of its name that is ours counts as done; Again for another's: the next look tells it."""
        kind: Kind = body["kind"]
        resource, name = RESOURCES[kind], body["metadata"]["name"]
        try:
            made = await self._api.create(resource, namespace, body)
            logger.info("Created %s %s.", kind, name)
        except kube.ApiError as error:
            if error.code != 409 or error.reason != "AlreadyExists":
                raise
            made = await self._api.get(resource, namespace, name)
            if controller_of(made).get("uid") != job_uid:
                raise Again(f"{kind} {name} is somebody else's: who has the name is looked at.") from error
            logger.info("%s %s was there already.", kind, name)
        self._store.put(kind, made)

    async def _tell_unwritable(self, job: Raw, read: Job, error: kube.ApiError) -> None:
        """The stored job breaks its own definition: nothing of it can be written, so an event has to do."""
        note = Note(type="Warning", reason=Reason.SPEC_INVALID.value, message=read.problem or error.message)
        await events.tell(self._api, job, note, attempt=read.status.attempt, instance=self._instance)

    async def _tell(self, job: Raw, decision: Decision) -> None:
        attempt = int(decision.status.get("attempt") or 0)
        for note in decision.notes:
            logger.info("%s: %s", note.reason, note.message)
            await events.tell(self._api, job, note, attempt=attempt, instance=self._instance)


def describe(action: Action) -> str:
    """An action in words."""
    if isinstance(action, Create):
        return f"Create {action.body['kind']}/{action.body['metadata']['name']}"
    if isinstance(action, Delete):
        return f"Delete {action.kind}/{action.name}"
    return f"Ask {action.pod} for a checkpoint"


def merge_patch_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch that makes `new` of `old`; empty if they are equal. `new` holds no null."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        if name in old and old[name] == value:
            continue
        if isinstance(value, dict) and isinstance(old.get(name), dict):
            patch[name] = merge_patch_of(old[name], value)
        else:
            patch[name] = value
    return patch


def now() -> datetime:
    """The time of day, in whole seconds: that is how the API keeps it."""
    return datetime.now(UTC).replace(microsecond=0)
