"""A job from its creation to its end on a real API server, on which the test plays training-operator and kubelet."""

from __future__ import annotations

import time

import pytest
from testbed.waiting import wait_until

from semires_operator import kube


def writes(proxy, *, beside=("semiresjobs/status", "events", "leases")) -> list[str]:
    """Writes that went through the proxy, but for those `beside`."""
    requests = [exchange.request for exchange in proxy.exchanges() if exchange.request.writes]
    told = [f"{one.resource}/{one.subresource}" if one.subresource else one.resource for one in requests]
    return [f"{one.verb} {name}" for one, name in zip(requests, told, strict=True) if name not in beside]


@pytest.fixture
def replica(start_replica, trainer, proxied, connection_of_file):
    """By way of the proxy, which is closed first: it would notice the end of a watch under TLS late."""
    return start_replica(connection_of_file(proxied), address=trainer.address)


def bring_to_training(hand, trainer, name: str = "a", attempt: int = 1):
    """Pass the preflight and start the training pod of an attempt."""
    hand.find("job", f"{name}-p{attempt}")
    hand.pass_preflight(f"{name}-p{attempt}")
    pod = hand.start(f"{name}-a{attempt}")
    trainer.show(pod)
    return pod


def test_a_job_trains_and_succeeds_with_few_writes(hand, trainer, replica, proxy):
    hand.submit()
    bring_to_training(hand, trainer)
    hand.wait("a", "tells its progress", lambda status: status.get("progress", {}).get("step") == 10)
    score = {"model": "teacher", "split": "val", "size": "original", "oIoU": 47.31, "mIoU": 50.1}
    hand.end_training("a-a1", results=[score])

    job = hand.wait_for_phase("a", "Succeeded")

    assert job["status"]["results"][0]["oIoU"] == "47.31"
    assert writes(proxy) == ["create jobs", "create pytorchjobs"]
    assert len([one for one in writes(proxy, beside=()) if one.endswith(" events")]) <= 12


def test_a_job_at_rest_is_not_written(hand, trainer, replica, proxy):
    hand.submit(suspend=True)
    hand.wait_for_phase("a", "Suspended")
    proxy.forget()
    time.sleep(5)

    assert writes(proxy, beside=("leases",)) == []


def test_a_failed_attempt_is_told_and_repeated(hand, trainer, replica):
    hand.submit()
    bring_to_training(hand, trainer)
    hand.wait_for_phase("a", "Running")
    hand.end_training("a-a1", exit_code=1, error={"reason": "Unexpected", "message": "it broke", "field": ""})

    job = hand.wait("a", "has a second attempt", lambda status: status.get("attempt") == 2)

    assert job["status"]["attempts"][0]["failure"]["message"] == "it broke"
    assert hand.find("job", "a-p2")


def test_a_suspended_job_saves_and_gives_its_pods_back(hand, trainer, replica, api_cluster, api_namespace):
    hand.submit()
    pod = bring_to_training(hand, trainer)
    hand.wait_for_phase("a", "Running")
    hand.patch("semiresjob", "a", {"spec": {"suspend": True}})
    wait_until("a checkpoint is asked for", lambda: trainer.checkpoints_asked, seconds=20)
    saved = {"uri": "s3://results/c", "step": 11, "sha256": "0" * 64}
    trainer.show(pod, lastCheckpoint={**saved, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})

    api_cluster.wait_until_gone("pytorchjob", "a-a1", api_namespace, seconds=30)
    job = hand.wait_for_phase("a", "Suspended")

    assert job["status"]["lastCheckpoint"]["step"] == 11


def test_the_series_of_a_job_vanish_with_it(hand, trainer, replica, api_cluster, api_namespace):
    hand.submit()
    wait_until("the job has series", lambda: 'name="a"' in replica.get("/metrics")[1], seconds=20)
    api_cluster.kubectl("delete", "semiresjob", "a", "-n", api_namespace)

    wait_until("its series have vanished", lambda: 'name="a"' not in replica.get("/metrics")[1], seconds=20)


def test_a_conflict_of_the_status_is_looked_at_again(hand, trainer, replica, proxy):
    """Somebody writes to the job all the time; the operator's status gets through."""
    hand.submit()
    for number in range(10):
        hand.patch("semiresjob", "a", {"metadata": {"annotations": {"touched": str(number)}}})

    assert hand.wait_for_phase("a", "Preflight")


@pytest.mark.parametrize(("owned", "owner"), [(False, "nobody"), (True, "ConfigMap/x")])
def test_a_name_that_is_taken_is_told(hand, replica, api_cluster, api_namespace, owned, owner):
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": api_namespace}}
    api_cluster.create(config)
    uid = hand.find("configmap", "x")["metadata"]["uid"]
    reference = {"kind": "ConfigMap", "apiVersion": "v1", "name": "x", "uid": uid}
    api_cluster.create(other_job(api_namespace, "a-p1", reference if owned else None))
    hand.submit()

    job = hand.wait("a", "tells the conflict", lambda status: status.get("reason") == "NameConflict")

    assert "a-p1" in job["status"]["message"]
    assert owner in job["status"]["message"]


def test_a_name_of_something_that_is_about_to_vanish_is_waited_for(hand, replica, api_cluster, api_namespace):
    """Its owner is gone: the garbage collector takes it away, and the job goes on."""
    owner = {"kind": "Deployment", "apiVersion": "apps/v1", "name": "x", "uid": "1"}
    api_cluster.create(other_job(api_namespace, "a-p1", owner))
    job = hand.submit()

    hand.wait_for_phase("a", "Preflight")
    child = wait_until(
        "the child is ours",
        lambda: owner_of(found := hand.find("job", "a-p1")) == job["metadata"]["uid"] and found,
        seconds=30,
    )

    assert child["metadata"]["labels"]["semires.dev/attempt"] == "1"


def test_a_name_that_becomes_free_is_used(hand, replica, api_cluster, api_namespace):
    api_cluster.create(other_job(api_namespace, "a-p1", None))
    hand.submit()
    hand.wait("a", "tells the conflict", lambda status: status.get("reason") == "NameConflict")
    api_cluster.kubectl("delete", "job", "a-p1", "-n", api_namespace)

    job = hand.wait_for_phase("a", "Preflight", seconds=60)

    assert job["status"]["attempt"] == 1


def test_children_of_a_deleted_job_of_the_same_name_are_waited_for(hand, trainer, replica, api_cluster, api_namespace):
    first = hand.submit()
    hand.find("job", "a-p1")
    api_cluster.kubectl("delete", "semiresjob", "a", "-n", api_namespace)
    second = hand.submit()

    job = hand.wait_for_phase("a", "Preflight", seconds=60)
    child = wait_until(
        "the second job has a preflight of its own",
        lambda: (found := hand.find("job", "a-p1")) and owner_of(found) == second["metadata"]["uid"] and found,
        seconds=60,
    )

    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert owner_of(child) == job["metadata"]["uid"]


def owner_of(body) -> str:
    return body["metadata"]["ownerReferences"][0]["uid"]


def other_job(namespace: str, name: str, owner) -> dict:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}}
    owners = [{**owner, "controller": True}] if owner else []
    metadata = {"name": name, "namespace": namespace, "ownerReferences": owners}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {"suspend": True, "template": template},
    }


def test_the_selector_of_a_kind_is_its_own():
    assert kube.PODS.path("team", "a", "log") == "/api/v1/namespaces/team/pods/a/log"
    assert kube.PYTORCHJOBS.path(None) == "/apis/kubeflow.org/v1/pytorchjobs"
