"""From the API's objects to the values of observed.py, and to the job itself. Pure; the only module of the core that
knows how those objects look."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from pydantic import ValidationError

from semires_operator import names
from semires_operator.observed import Child, ChildState, Pod, Taken, Warning_, Workload
from semires_operator.status import MAX_MESSAGE, Status
from semires_operator.untrusted import clean
from semires_trainer.config import API_VERSION, KIND, Spec, parse_job
from semires_trainer.errors import ConfigError

Raw: TypeAlias = Mapping[str, Any]
"""An object as the API server sends it."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DEEPEST = 8
"""Levels of a status."""
WORDLESS = {"Completed", "Error", "ContainerStatusUnknown"}
"""Reasons of a container that say less than the pod's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A SemiRESJob."""

    name: str
    namespace: str
    uid: str
    generation: int
    created: datetime
    spec: Spec | None
    """None if this operator can't read it."""
    problem: str = ""
    """Then: field, value and remedy."""
    status: Status = field(default_factory=Status)
    deleting: bool = False


def job_of(raw: Raw) -> Job:
    """The job that an object is. Never fails: a spec that can't be read is told, a status is read as far as it goes."""
    metadata = raw["metadata"]
    spec, problem = None, ""
    try:
        document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": metadata["name"]}}
        spec = parse_job({**document, "spec": _normal(raw.get("spec", {}))}).spec
    except ConfigError as error:
        problem = str(error)
    return Job(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        created=_time(metadata.get("creationTimestamp")) or EPOCH,
        spec=spec,
        problem=problem,
        status=status_of(raw.get("status") or {}),
        deleting="deletionTimestamp" in metadata,
    )


def _normal(value: Any) -> Any:
    """What the API server takes for the same: a null is an absent key, 1.0 is 1."""
    if isinstance(value, Mapping):
        return {key: _normal(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_normal(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def status_of(raw: Raw) -> Status:
    """A status as far as this operator understands it: a newer one may have written it, or a person."""
    rest = copy.deepcopy(dict(raw))
    for _ in range(len(rest) + DEEPEST):
        try:
            return Status.model_validate(rest)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            unknown = [problem["loc"] for problem in problems if problem["type"] == "extra_forbidden"]
            for place in unknown or [problem["loc"][:1] for problem in problems]:
                _take_out(rest, place)
    return Status()


def _take_out(status: dict[str, Any], place: tuple[int | str, ...]) -> None:
    """Remove a field that nobody here knows, or a field of the status with a value that does not fit."""
    target: Any = status
    for step in place[:-1]:
        target = target[step]
    target.pop(place[-1], None)


def preflight_of(raw: Raw) -> Child:
    """A batch/v1 Job."""
    conditions = _true_conditions(raw)
    ended: dict[str, ChildState] = {"Failed": "Failed", "Complete": "Succeeded"}
    suspended = bool(raw.get("spec", {}).get("suspend"))
    running: ChildState = "Running" if raw.get("status", {}).get("active") else "Created"
    return _child(raw, conditions, ended, other="Suspended" if suspended else running, suspended=suspended)


def pytorchjob_of(raw: Raw) -> Child:
    """A kubeflow.org/v1 PyTorchJob. Its conditions are told apart by type and status: their order and old ones that
    are no longer true mean nothing."""
    conditions = _true_conditions(raw)
    ended: dict[str, ChildState] = {"Failed": "Failed", "Succeeded": "Succeeded"}
    suspended = bool(raw.get("spec", {}).get("runPolicy", {}).get("suspend"))
    running: ChildState = "Running" if "Running" in conditions else "Created"
    return _child(raw, conditions, ended, other="Suspended" if suspended else running, suspended=suspended)


def _child(
    raw: Raw, conditions: Mapping[str, Raw], ended: Mapping[str, ChildState], *, other: ChildState, suspended: bool
) -> Child:
    metadata = raw["metadata"]
    found = next((name for name in ended if name in conditions), None)
    told = conditions.get(found or other, {})
    finished = told.get("lastTransitionTime") or raw.get("status", {}).get("completionTime") if found else None
    return Child(
        name=metadata["name"],
        uid=metadata["uid"],
        attempt=_attempt(metadata),
        created=_time(metadata.get("creationTimestamp")) or EPOCH,
        state=ended[found] if found else other,
        reason=told.get("reason", ""),
        message=clean(told.get("message"), longest=MAX_MESSAGE),
        suspended_by_others=suspended and found is None,
        deleting="deletionTimestamp" in metadata,
        finished=_time(finished),
    )


def taken_of(raw: Raw, *, job_uid: str, owner_is_there: bool) -> Taken | None:
    """An object that has the name of our child; None if it is ours after all."""
    owner = controller_of(raw)
    if owner.get("uid") == job_uid:
        return None
    return Taken(
        kind=raw.get("kind", ""),
        name=raw["metadata"]["name"],
        owner=f"{owner['kind']}/{owner['name']}" if owner else "nobody",
        deleting="deletionTimestamp" in raw["metadata"] or (bool(owner) and not owner_is_there),
    )


def is_ours(raw: Raw, job: Job) -> bool:
    """Whether a child is controlled by this very job, not by one of the same name."""
    return controller_of(raw).get("uid") == job.uid


def is_pod_of(raw: Raw, job: Job) -> bool:
    """Whether a pod is of one of our children: its labels say so, and it is controlled by what they name."""
    labels, owner = raw["metadata"].get("labels", {}), controller_of(raw)
    attempt, role = _attempt(raw["metadata"]), labels.get(names.ROLE_LABEL)
    owners = {
        names.TRAINING: ("PyTorchJob", names.child_name(job.name, attempt)),
        names.PREFLIGHT: ("Job", names.preflight_name(job.name, attempt)),
    }
    is_owned = (owner.get("kind"), owner.get("name")) == owners.get(role)
    return is_owned and labels.get(names.JOB_UID_LABEL) == job.uid


def pod_of(raw: Raw, nodes_ready: Mapping[str, bool]) -> Pod:
    """A pod of ours; `nodes_ready` has the nodes that can be seen."""
    metadata, spec, status = raw["metadata"], raw.get("spec", {}), raw.get("status", {})
    role: Literal["preflight", "training"] = (
        "preflight" if metadata["labels"][names.ROLE_LABEL] == names.PREFLIGHT else "training"
    )
    container = _container(status, names.PREFLIGHT_CONTAINER if role == "preflight" else names.TRAINER_CONTAINER)
    state = container.get("state", {})
    ended, waiting = state.get("terminated", {}), _waiting(status, state)
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    disruption, scheduled = conditions.get("DisruptionTarget", {}), conditions.get("PodScheduled", {})
    reason = ended.get("reason", "")
    node = spec.get("nodeName", "")
    grace = metadata.get("deletionGracePeriodSeconds", spec.get("terminationGracePeriodSeconds", 30))
    deleted = _time(metadata.get("deletionTimestamp"))
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        role=role,
        attempt=_attempt(metadata),
        phase=status.get("phase", "Pending"),
        created=_time(metadata.get("creationTimestamp")) or EPOCH,
        ip="" if spec.get("hostNetwork") else status.get("podIP", ""),
        node=node,
        assigned=_assigned(status, scheduled),
        node_ready=nodes_ready.get(node),
        started=_time(ended.get("startedAt") or state.get("running", {}).get("startedAt")),
        finished=_time(ended.get("finishedAt")),
        # deletionTimestamp is when the grace period ends
        deleting_since=deleted - timedelta(seconds=grace) if deleted else None,
        grace_seconds=grace,
        exit_code=ended.get("exitCode"),
        reason=status.get("reason", reason) if reason in {"", *WORDLESS} else reason,
        termination_message=ended.get("message", ""),
        message=clean(status.get("message"), longest=MAX_MESSAGE),
        disrupted=disruption.get("reason", "DisruptionTarget") if disruption.get("status") == "True" else "",
        waiting=waiting.get("reason", ""),
        waiting_message=clean(waiting.get("message"), longest=MAX_MESSAGE),
        unschedulable=scheduled.get("message", "Unschedulable") if scheduled.get("status") == "False" else "",
        image_id=container.get("imageID", ""),
    )


def _assigned(status: Raw, scheduled: Raw) -> datetime | None:
    """When a pod was given its node, or when its kubelet first saw it."""
    told = scheduled.get("lastTransitionTime") if scheduled.get("status") == "True" else None
    return _time(told or status.get("startTime"))


def warning_of(raw: Raw) -> Warning_ | None:
    """An event, if it is a Warning."""
    about, series = raw.get("involvedObject", {}), raw.get("series") or {}
    times = (series.get("lastObservedTime"), raw.get("lastTimestamp"), raw.get("eventTime"))
    time = _time(next(filter(None, (*times, raw["metadata"].get("creationTimestamp"))), None))
    if raw.get("type") != "Warning":
        return None
    return Warning_(
        kind=about.get("kind", ""),
        name=about.get("name", ""),
        reason=raw.get("reason", ""),
        message=clean(raw.get("message"), longest=MAX_MESSAGE),
        time=time or EPOCH,
    )


def newest_warnings(events: Iterable[Raw]) -> tuple[Warning_, ...]:
    """The newest Warning of each reason about each object, newest first."""
    found = sorted(filter(None, map(warning_of, events)), key=lambda warning: warning.time)
    newest = {(warning.kind, warning.name, warning.reason): warning for warning in found}
    return tuple(sorted(newest.values(), key=lambda warning: warning.time, reverse=True))


def workload_of(raw: Raw) -> Workload:
    """Kueue's Workload."""
    conditions = {condition["type"]: condition for condition in raw.get("status", {}).get("conditions", ())}
    reserved = conditions.get("QuotaReserved", {})
    refused = reserved if reserved.get("status") != "True" else {}
    return Workload(
        name=raw["metadata"]["name"],
        admitted=conditions.get("Admitted", {}).get("status") == "True",
        reason=refused.get("reason", ""),
        message=clean(refused.get("message"), longest=MAX_MESSAGE),
    )


def _true_conditions(raw: Raw) -> dict[str, Raw]:
    conditions = raw.get("status", {}).get("conditions") or ()
    return {condition["type"]: condition for condition in conditions if condition.get("status") == "True"}


def controller_of(raw: Raw) -> Raw:
    """The reference to the controller of an object; empty if it has none."""
    owners = raw["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})


def _container(status: Raw, name: str) -> Raw:
    statuses = status.get("containerStatuses") or ()
    return next((container for container in statuses if container.get("name") == name), {})


def _waiting(status: Raw, state: Raw) -> Raw:
    """What the pod's container waits for; before it begins, what an init container waits for."""
    states = [container.get("state", {}) for container in status.get("initContainerStatuses") or ()]
    return next((inner["waiting"] for inner in [*states, state] if inner.get("waiting")), {})


def _attempt(metadata: Raw) -> int:
    """0 if somebody has changed the label."""
    text = str(metadata.get("labels", {}).get(names.ATTEMPT_LABEL, ""))
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def _time(text: str | None) -> datetime | None:
    """A time as Kubernetes writes it."""
    return datetime.fromisoformat(text).astimezone(UTC) if text else None
