"""From the API's objects to plain values."""

from __future__ import annotations

from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest

from semires_operator.seen import (
    is_ours,
    is_pod_of,
    job_of,
    newest_warnings,
    pod_of,
    preflight_of,
    pytorchjob_of,
    status_of,
    taken_of,
    workload_of,
)
from semires_operator.status import Status

TIME = "2026-03-01T12:00:00Z"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def metadata(name: str, *, owner: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    owners = [{"controller": True, **owner}] if owner else []
    given = {"name": name, "namespace": "team-a", "uid": f"uid-of-{name}", "creationTimestamp": TIME}
    return {**given, "ownerReferences": owners, "labels": {"semires.dev/attempt": "2"}, **more}


def pytorchjob(*conditions: tuple[str, str], suspend: bool = False, **more: Any) -> dict[str, Any]:
    listed = [
        {"type": kind, "status": status, "reason": f"PyTorchJob{kind}", "message": kind, "lastTransitionTime": TIME}
        for kind, status in conditions
    ]
    owner = {"kind": "SemiRESJob", "name": "refcoco", "uid": "job-uid"}
    return {
        "kind": "PyTorchJob",
        "metadata": metadata("refcoco-a2", owner=owner, **more),
        "spec": {"runPolicy": {"suspend": suspend}},
        "status": {"conditions": listed} if conditions else {},
    }


@pytest.mark.parametrize(
    ("conditions", "suspend", "state"),
    [
        pytest.param([], False, "Created", id="new"),
        pytest.param([("Created", "True")], False, "Created", id="created"),
        pytest.param([("Created", "True"), ("Running", "True")], False, "Running", id="running"),
        pytest.param([("Running", "True"), ("Created", "True")], False, "Running", id="any-order"),
        pytest.param([("Running", "True"), ("Suspended", "False")], False, "Running", id="resumed"),
        pytest.param([("Created", "True"), ("Running", "False"), ("Suspended", "True")], True, "Suspended", id="held"),
        pytest.param([("Created", "True")], True, "Suspended", id="held-and-not-yet-told"),
        pytest.param([("Suspended", "True")], False, "Created", id="let-go-and-not-yet-told"),
        pytest.param([("Running", "False"), ("Succeeded", "True")], False, "Succeeded", id="succeeded"),
        pytest.param([("Failed", "True"), ("Running", "False")], False, "Failed", id="failed"),
        pytest.param([("Succeeded", "True"), ("Failed", "True")], False, "Failed", id="both"),
        pytest.param([("Succeeded", "True")], True, "Succeeded", id="held-after-its-end"),
        pytest.param([("Restarting", "True")], False, "Created", id="restarting"),
    ],
)
def test_a_pytorchjob_is_read_by_type_and_status(conditions: Any, suspend: bool, state: str) -> None:
    child = pytorchjob_of(pytorchjob(*conditions, suspend=suspend))

    assert (child.name, child.attempt, child.state) == ("refcoco-a2", 2, state)
    assert child.suspended_by_others == (state == "Suspended")
    assert child.finished == (NOON if state in {"Succeeded", "Failed"} else None)


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        pytest.param({}, "Created", "", id="new"),
        pytest.param({"active": 1}, "Running", "", id="active"),
        pytest.param({"conditions": [{"type": "Complete", "status": "True"}]}, "Succeeded", "", id="complete"),
        pytest.param(
            {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]},
            "Failed",
            "DeadlineExceeded",
            id="late",
        ),
        pytest.param(
            {"active": 1, "conditions": [{"type": "FailureTarget", "status": "True"}]}, "Running", "", id="soon"
        ),
    ],
)
def test_a_preflight_job_is_read(status: dict[str, Any], state: str, reason: str) -> None:
    child = preflight_of({"metadata": metadata("refcoco-p2"), "spec": {}, "status": status})

    assert (child.state, child.reason) == (state, reason)


def test_a_deleted_child_and_a_changed_label_are_seen() -> None:
    child = pytorchjob_of(pytorchjob(deletionTimestamp=TIME, labels={"semires.dev/attempt": "²"}))

    assert (child.deleting, child.attempt) == (True, 0)


def pod(status: dict[str, Any], *, spec: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    labels = {
        "semires.dev/attempt": "2",
        "semires.dev/role": "training",
        "semires.dev/job-uid": "job-uid",
    }
    owner = {"kind": "PyTorchJob", "name": "refcoco-a2", "uid": "uid-of-refcoco-a2"}
    return {
        "metadata": metadata("refcoco-a2-master-0", owner=owner, **{"labels": labels, **more}),
        "spec": {"nodeName": "node-1", **(spec or {})},
        "status": status,
    }


def container(name: str = "pytorch", **state: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "imageID": "image@sha256:1"}


def test_a_running_pod_is_read() -> None:
    status = {"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [container(running={"startedAt": TIME})]}
    seen = pod_of(pod(status), {"node-1": True})

    assert (seen.role, seen.attempt, seen.phase, seen.ip, seen.node) == ("training", 2, "Running", "10.0.0.7", "node-1")
    assert (seen.started, seen.node_ready, seen.image_id, seen.alive) == (NOON, True, "image@sha256:1", True)


def test_a_pod_on_the_hosts_network_has_no_address() -> None:
    seen = pod_of(pod({"phase": "Running", "podIP": "10.0.0.7"}, spec={"hostNetwork": True}), {})

    assert (seen.ip, seen.node_ready) == ("", None)


def test_the_end_of_the_trainers_container_is_read_and_not_a_sidecars() -> None:
    ended = {"exitCode": 5, "reason": "Error", "message": "{}", "startedAt": TIME, "finishedAt": TIME}
    sidecar = container("istio", terminated={"exitCode": 0})
    seen = pod_of(pod({"phase": "Failed", "containerStatuses": [sidecar, container(terminated=ended)]}), {})

    assert (seen.exit_code, seen.termination_message, seen.finished, seen.alive) == (5, "{}", NOON, False)


@pytest.mark.parametrize(
    ("container_reason", "pod_reason", "reason"),
    [
        pytest.param("OOMKilled", None, "OOMKilled", id="container"),
        pytest.param("OOMKilled", "Evicted", "OOMKilled", id="container-says-more"),
        pytest.param("Error", "Evicted", "Evicted", id="pod-says-more"),
        pytest.param("ContainerStatusUnknown", "Evicted", "Evicted", id="container-knows-nothing"),
        pytest.param("Error", None, "Error", id="nobody-knows"),
    ],
)
def test_the_reason_that_says_most_is_taken(container_reason: str, pod_reason: str | None, reason: str) -> None:
    status = {"containerStatuses": [container(terminated={"exitCode": 137, "reason": container_reason})]}
    told = {"reason": pod_reason} if pod_reason else {}

    assert pod_of(pod({"phase": "Failed", **status, **told}), {}).reason == reason


def test_why_a_node_refused_a_pod_is_read() -> None:
    refused = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed\x07"}
    seen = pod_of(pod(refused), {})

    assert (seen.reason, seen.message) == ("UnexpectedAdmissionError", "Allocate failed")


def test_when_deletion_was_asked_for_is_told_from_when_grace_ends() -> None:
    seen = pod_of(pod({}, deletionTimestamp="2026-03-01T12:02:00Z", deletionGracePeriodSeconds=120), {})

    assert (seen.deleting_since, seen.grace_seconds) == (NOON, 120)


def test_what_a_pod_waits_for_is_read() -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off\x07"}
    unbound = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    status = {"conditions": [unbound, disrupted], "containerStatuses": [container(waiting=waiting)]}
    seen = pod_of(pod(status), {})

    assert (seen.phase, seen.waiting, seen.waiting_message) == ("Pending", "ImagePullBackOff", "Back-off")
    assert (seen.unschedulable, seen.disrupted) == ("0/1 nodes", "PreemptionByScheduler")


@pytest.mark.parametrize(
    ("status", "assigned"),
    [
        pytest.param(
            {"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": TIME}]}, NOON, id="told"
        ),
        pytest.param({"startTime": TIME}, NOON, id="seen-by-its-kubelet"),
        pytest.param(
            {"conditions": [{"type": "PodScheduled", "status": "False", "lastTransitionTime": TIME}]}, None, id="waits"
        ),
    ],
)
def test_when_a_pod_was_given_its_node_is_read(status: dict[str, Any], assigned: datetime | None) -> None:
    assert pod_of(pod(status), {}).assigned == assigned


def test_an_init_container_that_waits_is_told_first() -> None:
    inner = {"name": "init", "state": {"waiting": {"reason": "ErrImagePull"}}}
    status = {
        "initContainerStatuses": [inner],
        "containerStatuses": [container(waiting={"reason": "PodInitializing"})],
    }

    assert pod_of(pod(status), {}).waiting == "ErrImagePull"


def test_only_pods_of_our_children_are_ours(worlds: ModuleType) -> None:
    job = worlds.World(children={}).job
    foreign = {"kind": "ReplicaSet", "name": "refcoco-a2", "controller": True}

    assert is_pod_of(pod({}), job)
    assert not is_pod_of(pod({}, ownerReferences=[foreign]), job)
    assert not is_pod_of(pod({}, ownerReferences=[]), job)
    assert is_ours(pytorchjob(), job)
    assert not is_ours(pytorchjob(ownerReferences=[]), job)


@pytest.mark.parametrize(
    ("owner", "there", "more", "expected"),
    [
        pytest.param({"kind": "SemiRESJob", "name": "r", "uid": "job-uid"}, True, {}, None, id="ours"),
        pytest.param(
            {"kind": "SemiRESJob", "name": "r", "uid": "old"}, False, {}, ("SemiRESJob/r", True), id="old-jobs"
        ),
        pytest.param({"kind": "CronJob", "name": "c", "uid": "x"}, True, {}, ("CronJob/c", False), id="anothers"),
        pytest.param(None, False, {}, ("nobody", False), id="nobodys"),
        pytest.param(None, False, {"deletionTimestamp": TIME}, ("nobody", True), id="going"),
    ],
)
def test_who_has_our_name_is_told(owner: Any, there: bool, more: Any, expected: tuple[str, bool] | None) -> None:
    raw = {"kind": "Job", "metadata": metadata("refcoco-p2", owner=owner, **more)}
    taken = taken_of(raw, job_uid="job-uid", owner_is_there=there)

    assert (taken and (taken.owner, taken.deleting)) == expected


def event(reason: str, message: str, time: str, **more: Any) -> dict[str, Any]:
    about = {"kind": "Pod", "name": "refcoco-a2-master-0"}
    given = {"type": "Warning", "involvedObject": about, "reason": reason, "message": message, "lastTimestamp": time}
    return {"metadata": {"creationTimestamp": TIME}, **given, **more}


def test_the_newest_warning_of_each_reason_is_kept() -> None:
    later = "2026-03-01T12:05:00Z"
    told = newest_warnings(
        [
            event("FailedMount", "new", later),
            event("FailedMount", "old", TIME),
            event("FailedScheduling", "other", "", series={"lastObservedTime": "2026-03-01T12:01:00Z"}),
            event("Pulled", "no warning", later, type="Normal"),
        ]
    )

    assert [(warning.reason, warning.message) for warning in told] == [
        ("FailedMount", "new"),
        ("FailedScheduling", "other"),
    ]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        pytest.param([], (False, ""), id="new"),
        pytest.param(
            [{"type": "QuotaReserved", "status": "False", "reason": "WaitingForQuota"}],
            (False, "WaitingForQuota"),
            id="waits",
        ),
        pytest.param(
            [{"type": "QuotaReserved", "status": "True", "reason": "Q"}, {"type": "Admitted", "status": "True"}],
            (True, ""),
            id="admitted",
        ),
    ],
)
def test_a_workload_is_read(conditions: Any, expected: tuple[bool, str]) -> None:
    workload = workload_of({"metadata": {"name": "w"}, "status": {"conditions": conditions}})

    assert (workload.admitted, workload.reason) == expected


def raw_job(worlds: ModuleType, **spec: Any) -> dict[str, Any]:
    given = {"name": "refcoco", "namespace": "team-a", "uid": "job-uid", "generation": 3, "creationTimestamp": TIME}
    return {"metadata": given, "spec": {**worlds.SPEC, **spec}}


def test_a_job_is_read_with_nulls_and_whole_floats_as_the_api_server_takes_them(worlds: ModuleType) -> None:
    job = job_of(raw_job(worlds, queue=None, activeDeadlineSeconds=60.0))

    assert job.spec is not None
    assert (job.spec.queue, job.spec.active_deadline_seconds, job.status) == (None, 60, Status())


def test_a_spec_that_cannot_be_read_is_told_with_field_value_and_remedy(worlds: ModuleType) -> None:
    job = job_of(raw_job(worlds, resources={"gpusPerNode": "four"}))

    assert job.spec is None
    assert job.problem.startswith('spec.resources.gpusPerNode: expected a whole number, got "four".')


def test_a_status_of_a_newer_operator_is_read_as_far_as_it_goes() -> None:
    checkpoint = {"uri": "s3://x", "step": 5, "encrypted": True}
    attempts = [{"number": 1, "ended": "Failed", "cost": 5}]
    status = status_of(
        {"phase": "Running", "attempt": 1, "lastCheckpoint": checkpoint, "attempts": attempts, "new": {}}
    )

    assert (status.phase, status.attempt) == ("Running", 1)
    assert status.last_checkpoint is not None
    assert (status.last_checkpoint.step, status.attempts[0].number) == (5, 1)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"phase": "Paused"}, id="unknown-phase"),
        pytest.param({"lastCheckpoint": {"uri": 5}}, id="broken-part"),
        pytest.param({"attempts": [{"number": "x", "ended": "?", "more": 1}], "conditions": 5}, id="broken-lists"),
        pytest.param({"retryAt": "soon", "new": 1, "progress": {"new": {"step": 1}}}, id="all-kinds"),
    ],
)
def test_a_broken_field_of_a_status_is_as_if_it_were_not_there(broken: dict[str, Any]) -> None:
    status = status_of({"attempt": 3, **broken})

    assert status.attempt == 3
