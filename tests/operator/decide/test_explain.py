"""Why it isn't running, in the words that Kubernetes really uses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from semires_operator.explain import explain_queue, explain_refusal, explain_stuck, explain_taken, explain_waiting
from semires_operator.observed import Child, Pod, Refusal, Taken, Warning_, Workload
from semires_operator.reasons import Reason

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHILD = Child(name="refcoco-a1", uid="1", attempt=1, created=NOW - timedelta(minutes=2), state="Created")


def pod(**fields: Any) -> Pod:
    given = {"phase": "Pending", "created": NOW - timedelta(minutes=2), **fields}
    return Pod(name="refcoco-a1-master-0", uid="2", role="training", attempt=1, **given)


def warning(reason: str, message: str, *, about: str = "PyTorchJob/refcoco-a1", age: float = 60) -> Warning_:
    kind, _, name = about.partition("/")
    return Warning_(kind=kind, name=name, reason=reason, message=message, time=NOW - timedelta(seconds=age))


def explain(pods: list[Pod], *warnings: Warning_) -> tuple[Reason, str] | None:
    found = explain_waiting(CHILD, pods, warnings, now=NOW, creating_seconds=300)
    return (found.reason, found.message) if found else None


POD = "Pod/refcoco-a1-master-0"


@pytest.mark.parametrize(
    ("waiting", "message", "reason"),
    [
        pytest.param("ErrImagePull", "manifest unknown", Reason.IMAGE_PULL_BACK_OFF, id="pull"),
        pytest.param("InvalidImageName", "couldn't parse", Reason.IMAGE_PULL_BACK_OFF, id="image-name"),
        pytest.param("ErrImageNeverPull", "not present", Reason.IMAGE_PULL_BACK_OFF, id="never-pull"),
        pytest.param("CreateContainerConfigError", 'secret "s3" not found', Reason.SECRET_MISSING, id="secret"),
        pytest.param("CreateContainerConfigError", "runAsNonRoot", Reason.CONTAINER_CONFIG_INVALID, id="root"),
        pytest.param("CreateContainerError", "bad mount", Reason.CONTAINER_CONFIG_INVALID, id="mount"),
    ],
)
def test_a_container_that_waits(waiting: str, message: str, reason: Reason) -> None:
    found = explain([pod(waiting=waiting, waiting_message=message)])

    assert found is not None
    assert found[0] is reason
    assert message in found[1]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", Reason.UNSCHEDULABLE, id="gpus"),
        pytest.param('persistentvolumeclaim "cache" not found', Reason.CLAIM_MISSING, id="claim"),
        pytest.param(
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
            Reason.CLAIM_MISSING,
            id="unbound",
        ),
    ],
)
def test_a_pod_without_a_node(message: str, reason: Reason) -> None:
    found = explain([pod(unschedulable=message)])

    assert found is not None
    assert found[0] is reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(
            'Error creating: pods "refcoco-p1-x7k2p" is forbidden: exceeded quota: gpus, requested: cpu=1, used: cpu=4',
            Reason.QUOTA_EXCEEDED,
            id="quota",
        ),
        pytest.param(
            'pods "x" is forbidden: failed quota: q: must specify limits.cpu for: pytorch',
            Reason.QUOTA_EXCEEDED,
            id="limits",
        ),
        pytest.param(
            'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
            Reason.POD_SECURITY_REFUSED,
            id="pod-security",
        ),
        pytest.param(
            'pods "x" is forbidden: error looking up service account team-a/t: serviceaccount "t" not found',
            Reason.SERVICE_ACCOUNT_MISSING,
            id="service-account",
        ),
        pytest.param(
            'Internal error occurred: failed calling webhook "v.kueue.x-k8s.io": no endpoints available',
            Reason.WEBHOOK_UNAVAILABLE,
            id="webhook",
        ),
        pytest.param("the server could not find the requested resource", Reason.BACKEND_MISSING, id="no-crd"),
        pytest.param('admission webhook "policy" denied the request: no', Reason.CREATE_REFUSED, id="policy"),
    ],
)
def test_a_refusal_means_the_same_from_the_api_server_and_in_an_event(message: str, reason: Reason) -> None:
    refusal = Refusal(action="Create Job/refcoco-p1", code=403, reason="Forbidden", message=message)
    found = explain([], warning("FailedCreate", message))

    assert explain_refusal(refusal).reason is reason
    assert message.rstrip(".") in explain_refusal(refusal).message
    assert found is not None
    assert found[0] is reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param('jobs.batch "refcoco-p1" already exists', Reason.NAME_CONFLICT, id="there"),
        pytest.param(
            'object is being deleted: jobs.batch "refcoco-p1" already exists', Reason.WAITING_FOR_OLD_OBJECT, id="going"
        ),
    ],
)
def test_a_name_that_is_taken_is_told_before_anybody_has_looked_at_it(message: str, reason: Reason) -> None:
    refusal = Refusal(action="Create Job/refcoco-p1", code=409, reason="AlreadyExists", message=message)

    assert explain_refusal(refusal).reason is reason


def test_a_volume_that_cannot_be_mounted_is_told_at_once() -> None:
    message = 'MountVolume.SetUp failed for volume "credentials" : secret "s3-credentials" not found'
    found = explain([pod(node="node-1", waiting="ContainerCreating")], warning("FailedMount", message, about=POD))

    assert found is not None
    assert found[0] is Reason.SECRET_MISSING


def test_a_pod_that_is_set_up_for_five_minutes_is_told_with_the_newest_warning() -> None:
    slow = pod(node="node-1", waiting="ContainerCreating", created=NOW - timedelta(minutes=6))
    found = explain([slow], warning("FailedCreatePodSandBox", "network plugin", about=POD))

    assert found is not None
    assert found[0] is Reason.CONTAINER_CREATING_TOO_LONG
    assert "FailedCreatePodSandBox: network plugin" in found[1]


SECRET = 'MountVolume.SetUp failed for volume "credentials" : secret "s3-credentials" not found'


@pytest.mark.parametrize(
    ("set_up_for", "age", "reason"),
    [
        pytest.param(280, 125, Reason.SECRET_MISSING, id="repeated-as-often-as-it-is"),
        pytest.param(280, 200, None, id="repaired"),
        pytest.param(320, 200, Reason.CONTAINER_CREATING_TOO_LONG, id="repaired-and-still-not-set-up"),
        pytest.param(1300, 425, Reason.SECRET_MISSING, id="repeated-seldom-after-long"),
        pytest.param(1300, 500, Reason.CONTAINER_CREATING_TOO_LONG, id="repaired-after-long"),
    ],
)
def test_a_warning_that_is_not_repeated_is_no_cause_any_more(
    set_up_for: float, age: float, reason: Reason | None
) -> None:
    began = NOW - timedelta(seconds=set_up_for)
    waits = pod(node="node-1", waiting="ContainerCreating", created=began, assigned=began)
    told = warning("FailedMount", SECRET, about=POD, age=age)
    child = replace(CHILD, created=began)
    found = explain_waiting(child, [waits], [told], now=NOW, creating_seconds=300)

    assert (found and found.reason) == reason


@pytest.mark.parametrize(
    ("pods", "warnings"),
    [
        pytest.param([], [], id="nothing-yet"),
        pytest.param(
            [pod(node="node-1", created=NOW - timedelta(hours=2), assigned=NOW - timedelta(minutes=1))],
            [],
            id="had-no-node-for-long",
        ),
        pytest.param([pod(node="node-1", waiting="ContainerCreating")], [], id="young"),
        pytest.param([pod()], [warning("FailedCreatePod", "exceeded quota")], id="pods-are-there"),
        pytest.param([], [warning("FailedCreate", "exceeded quota", age=600)], id="of-an-earlier-child"),
        pytest.param([], [warning("FailedCreate", "exceeded quota", about="Job/other")], id="of-another"),
        pytest.param([], [warning("FailedCreateService", "exceeded quota")], id="of-something-else"),
    ],
)
def test_nothing_is_told_while_nothing_is_wrong(pods: list[Pod], warnings: list[Warning_]) -> None:
    assert explain(pods, *warnings) is None


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        pytest.param(None, "suspended by somebody else", id="no-kueue"),
        pytest.param(Workload(name="w", admitted=False), "not looked at yet", id="new"),
        pytest.param(
            Workload(name="w", admitted=False, reason="WaitingForQuota", message="insufficient unused quota"),
            "WaitingForQuota: insufficient unused quota",
            id="waits",
        ),
        pytest.param(Workload(name="w", admitted=True), "has admitted", id="admitted"),
    ],
)
def test_kueues_own_words_are_told(workload: Workload | None, words: str) -> None:
    found = explain_queue(CHILD, workload)

    assert found.reason is Reason.QUEUED
    assert words in found.message


def test_who_has_our_name_is_told() -> None:
    found = explain_taken(Taken(kind="Job", name="refcoco-p1", owner="CronJob/nightly"))

    assert found.message.startswith("Job refcoco-p1 exists and belongs to CronJob/nightly. Delete that object")


@pytest.mark.parametrize(
    ("ready", "words"),
    [
        pytest.param(True, "is Ready", id="ready"),
        pytest.param(False, "is not Ready", id="not-ready"),
        pytest.param(None, "can't be seen", id="namespaced"),
    ],
)
def test_a_stuck_pod_is_told_with_its_node(ready: bool | None, words: str) -> None:
    assert f"its node node-7 {words}" in explain_stuck(pod(node="node-7", node_ready=ready)).message
