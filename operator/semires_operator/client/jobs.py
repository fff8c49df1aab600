"""`Client`: what people do with SemiRESJobs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from semires_operator.client.connection import connect
from semires_operator.client.differences import Difference, differences
from semires_operator.client.errors import ClusterError, Conflict, JobFailed, JobNotFound, Refused, WaitTimedOut
from semires_operator.client.gateway import Gateway
from semires_operator.client.logs import LogLine, LogReader, LogRequest
from semires_operator.client.model import Event, Job, event_of, job_of
from semires_operator.client.watching import JobWatch
from semires_operator.names import KIND
from semires_trainer.config import SemiRESJob
from semires_trainer.errors import ConfigError
from semires_trainer.manifest import load_manifest
from semires_trainer.spec.explain import did_you_mean

Until = Literal["Complete", "Failed", "Finished", "Suspended", "Running", "Progressing", "CheckpointFresh", "Degraded"]
"""Conditions that can be waited for."""
TRIES = 5
"""Of a write that meets another's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """What a submission did."""

    job: Job
    """As it is now; as it would be, after a dry run."""
    outcome: Literal["created", "changed", "unchanged"]
    changes: tuple[Difference, ...] = ()
    """Fields of the spec that changed."""


class Client:
    """SemiRESJobs of a cluster. Every method raises `ClusterError`s of one line, `ConfigError` for a wrong manifest."""

    def __init__(
        self, namespace: str | None = None, *, kubeconfig: str | Path | None = None, context: str | None = None
    ) -> None:
        """Choose the cluster as kubectl does: KUBECONFIG or ~/.kube/config, else the pod's ServiceAccount.

        `namespace` is where jobs are unless a manifest or a call names another; default: that of the context.
        """
        connection = connect(kubeconfig, context)
        self.explicit_namespace = namespace
        """The namespace that was asked for, if one was."""
        self.namespace = namespace or connection.namespace
        """Where jobs are."""
        self._gateway = Gateway(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._gateway.close()

    def submit(
        self, job: SemiRESJob | str | Path, *, overrides: Iterable[tuple[str, str]] = (), dry_run: bool = False
    ) -> Job:
        """Create a job, or change one of the same name to what the manifest says. See `apply`."""
        return self.apply(job, overrides=overrides, dry_run=dry_run).job

    def apply(
        self, job: SemiRESJob | str | Path, *, overrides: Iterable[tuple[str, str]] = (), dry_run: bool = False
    ) -> Applied:
        """Check a manifest (a model, or a file with values of --set), then have the API server create or change it.

        spec.suspend stays as it is on the cluster unless the manifest names it. `dry_run`: the server checks
        everything, and nothing is stored.
        """
        manifest = job if isinstance(job, SemiRESJob) else load_manifest(job, overrides)
        namespace, body = self._namespace_of(manifest), body_of(manifest)
        for _ in range(TRIES):
            existing = self._find(namespace, manifest.metadata.name)
            try:
                if existing is None:
                    made = self._gateway.write_job("create", namespace, body, dry_run=dry_run)
                    return Applied(job=job_of(made), outcome="created")
                return self._change(existing, manifest, body, dry_run=dry_run)
            except (Conflict, JobNotFound) as error:
                met = error
        raise met

    def get(self, name: str, *, namespace: str | None = None) -> Job:
        """One job. JobNotFound proposes a name that is there."""
        place = namespace or self.namespace
        try:
            return job_of(self._gateway.get_job(place, name))
        except JobNotFound as error:
            raise self._with_names(error, place, name) from error

    def list(self, *, namespace: str | None = None, everywhere: bool = False, selector: str = "") -> tuple[Job, ...]:
        """The jobs of a namespace, or of all; `selector` chooses by labels, as kubectl's -l."""
        place = None if everywhere else namespace or self.namespace
        items = self._gateway.list_jobs(place, selector=selector).get("items") or []
        return tuple(job_of(item) for item in items)

    def suspend(self, name: str, *, namespace: str | None = None) -> Job:
        """Ask for a checkpoint and for the GPUs to be given back. Returns at once; wait(until="Suspended") waits."""
        return self._set_suspend(name, namespace, suspended=True)

    def resume(self, name: str, *, namespace: str | None = None) -> Job:
        """Let a suspended job go on from its last checkpoint."""
        return self._set_suspend(name, namespace, suspended=False)

    def delete(self, name: str, *, namespace: str | None = None) -> None:
        """Delete a job and its pods. What it has written to its output stays."""
        place = namespace or self.namespace
        try:
            self._gateway.delete_job(place, name)
        except JobNotFound as error:
            raise self._with_names(error, place, name) from error

    def watch(self, name: str, *, namespace: str | None = None, timeout: float | None = None) -> Iterator[Job]:
        """The job now and after each change, over cut connections; ends after `timeout` seconds.

        Raises JobGone once it is deleted.
        """
        place, deadline = namespace or self.namespace, math.inf if timeout is None else time.monotonic() + timeout
        try:
            yield from JobWatch(source=self._gateway, namespace=place, name=name, deadline=deadline).states()
        except JobNotFound as error:
            raise self._with_names(error, place, name) from error

    def wait(
        self,
        name: str,
        *,
        until: Until = "Finished",
        timeout: float | None = None,
        namespace: str | None = None,
        on_change: Callable[[Job], None] | None = None,
    ) -> Job:
        """Wait until a condition is True and speaks of the present spec; `on_change` is told each state.

        A job that has succeeded counts as one that was Running. Raises WaitTimedOut after `timeout` seconds, JobFailed
        if the job ended and the condition can't come any more, JobGone if it was deleted.
        """
        if until not in get_args(Until):
            raise ConfigError(f'"{until}" is no condition', field="until", remedy=did_you_mean(until, get_args(Until)))
        job: Job | None = None
        for job in self.watch(name, namespace=namespace, timeout=timeout):
            if on_change is not None:
                on_change(job)
            if is_reached(job, until):
                return job
            if job.is_finished:
                raise ended_otherwise(job, until)
        state = f"{job.status.phase}: {job.status.message}".rstrip(": ") if job else "not seen"
        remedy = f"See: semires describe {name}"
        raise WaitTimedOut(f"{name} was not {until} within {timeout:g} s ({state})", remedy=remedy)

    def logs(self, name: str, request: LogRequest | None = None, *, namespace: str | None = None) -> Iterator[LogLine]:
        """Lines of the trainer, by default all that there are of the newest attempt. Raises NoLog if there are none.

        When the pods are gone: the last lines that the operator kept of a failed attempt.
        """
        asked = request or LogRequest()
        look = lambda: self.get(name, namespace=namespace)  # noqa: E731
        return LogReader(source=self._gateway, look=look, request=asked).lines()

    def events(self, job: Job) -> tuple[Event, ...]:
        """What was told about a job, oldest first; the API server forgets it after an hour."""
        selector = f"involvedObject.kind={KIND},involvedObject.uid={job.uid}"
        found = [event_of(item) for item in self._gateway.list_events(job.namespace, selector)]
        return tuple(sorted(found, key=lambda event: event.time.timestamp() if event.time else 0.0))

    def _namespace_of(self, manifest: SemiRESJob) -> str:
        named = manifest.metadata.namespace
        if named and self.explicit_namespace and named != self.explicit_namespace:
            problem = f'"{named}" contradicts -n {self.explicit_namespace}'
            raise ConfigError(problem, field="metadata.namespace", remedy="Remove one of them")
        return named or self.namespace

    def _find(self, namespace: str, name: str) -> Job | None:
        try:
            return job_of(self._gateway.get_job(namespace, name))
        except JobNotFound:
            return None

    def _change(self, existing: Job, manifest: SemiRESJob, body: Mapping[str, Any], *, dry_run: bool) -> Applied:
        if existing.is_deleting:
            problem = f'{KIND} "{existing.name}" is being deleted'
            raise Refused(problem, remedy="Wait until it is gone, or choose another name")
        wanted = merged(existing, body)
        changes = _changes(existing, manifest)
        if changes == () and wanted["metadata"] == existing.metadata:
            return Applied(job=existing, outcome="unchanged")
        made = self._gateway.write_job("replace", existing.namespace, wanted, dry_run=dry_run)
        return Applied(job=job_of(made), outcome="changed", changes=changes or ())

    def _set_suspend(self, name: str, namespace: str | None, *, suspended: bool) -> Job:
        job = self.get(name, namespace=namespace)
        if job.is_finished:
            verb = "suspend" if suspended else "resume"
            problem = f"{name} has finished ({job.status.phase}): there is nothing to {verb}"
            raise Refused(problem, remedy="Submit it under another name to train again")
        if job.is_suspended == suspended:
            return job
        for _ in range(TRIES):
            try:
                return job_of(self._gateway.patch_job(job.namespace, name, {"spec": {"suspend": suspended}}))
            except Conflict as error:
                met = error
        raise met

    def _with_names(self, error: JobNotFound, namespace: str, name: str) -> JobNotFound:
        """The same error with what there is instead."""
        try:
            names = [job.name for job in self.list(namespace=namespace)]
        except ClusterError:
            return error  # the reader may not list: the first error is the one to show
        remedy = did_you_mean(name, names[:20]) if names else "There are none in it: semires list -A shows all"
        return JobNotFound(error.message, remedy=remedy)


def body_of(manifest: SemiRESJob) -> dict[str, Any]:
    """The object to submit: what the manifest gives, without its defaults; those are the server's."""
    return manifest.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)


def merged(existing: Job, body: Mapping[str, Any]) -> dict[str, Any]:
    """`existing` with the spec of `body`, and its labels and annotations added."""
    spec = dict(body["spec"])
    if existing.is_suspended:
        spec.setdefault("suspend", True)
    metadata = dict(existing.metadata)
    for name in ("labels", "annotations"):
        if body["metadata"].get(name):
            metadata[name] = {**(metadata.get(name) or {}), **body["metadata"][name]}
    head = {name: value for name, value in existing.document.items() if name != "status"}
    return {**head, "metadata": metadata, "spec": spec}


def _changes(existing: Job, manifest: SemiRESJob) -> tuple[Difference, ...] | None:
    """Fields that change; None if what is there can't be read by this version."""
    try:
        found = differences(existing.manifest(), manifest)
    except ConfigError:
        return None
    is_suspend_given = "suspend" in manifest.spec.model_fields_set
    return tuple(change for change in found if is_suspend_given or change.path != "spec.suspend")


def is_reached(job: Job, until: str) -> bool:
    """Whether what is waited for has come. Ends hold whatever the spec says now; the rest must speak of it."""
    if until == "Finished":
        return job.is_finished
    if until in {"Complete", "Failed"}:
        return job.holds(until)
    if until == "Running" and job.is_complete:
        return True
    return job.is_current and job.holds(until)


def ended_otherwise(job: Job, until: str) -> JobFailed:
    """The error of a job that ended and will never be what is waited for."""
    if job.is_complete:
        return JobFailed(f"{job.name} succeeded: it will not be {until}", job=job)
    failure = job.status.last_failure
    field = failure.field if failure is not None else ""
    message = failure.message if failure is not None and failure.message else job.status.message or job.status.reason
    remedy = f"See: semires describe {job.name}"
    return JobFailed(f"{job.name} failed: {message}", job=job, field=field, remedy=remedy)
