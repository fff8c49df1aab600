"""Pretended nodes, and a training-operator that runs PyTorchJobs on them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from testbed.cluster import Cluster, KubectlError, condition
from testbed.fake_nodes import FakeNodeCluster

Make = Callable[..., dict[str, Any]]


def succeeded(job: dict[str, Any]) -> bool:
    return condition(job, "Succeeded") == "True"


def failed(job: dict[str, Any]) -> bool:
    return condition(job, "Failed") == "True"


def terminated(pod: dict[str, Any]) -> dict[str, Any]:
    return dict(pod["status"]["containerStatuses"][0]["state"]["terminated"])


def test_a_job_with_four_gpus_succeeds(fake_node_cluster: Cluster, fake_node_namespace: str, pytorchjob: Make) -> None:
    fake_node_cluster.create(pytorchjob(fake_node_namespace, "job"))

    fake_node_cluster.wait_for_object("pytorchjob", "job", fake_node_namespace, until=succeeded)


def test_a_job_fails_with_the_exit_code_that_its_annotation_names(
    own_fake_node_cluster: FakeNodeCluster, fake_node_namespace: str, pytorchjob: Make
) -> None:
    outcome = json.dumps({"exitCode": 3, "error": {"message": 'a "quoted" reason'}})
    annotations = {"pytorchjob.testbed/exit-code": "3", "pytorchjob.testbed/message": outcome}
    own_fake_node_cluster.create(pytorchjob(fake_node_namespace, "job", annotations=annotations))

    own_fake_node_cluster.wait_for_object("pytorchjob", "job", fake_node_namespace, until=failed)
    pod = own_fake_node_cluster.get("pod", "job-master-0", "-n", fake_node_namespace)

    assert pod["status"]["phase"] == "Failed"
    assert terminated(pod)["exitCode"] == 3
    assert terminated(pod)["reason"] == "Error"
    assert terminated(pod)["message"] == outcome


def test_a_pod_runs_as_long_as_it_should_and_ends_for_the_reason_that_it_should(
    own_fake_node_cluster: FakeNodeCluster, fake_node_namespace: str, pytorchjob: Make
) -> None:
    words = {"seconds": "3s", "exit-code": "137", "reason": "OOMKilled"}
    annotations = {f"pytorchjob.testbed/{word}": value for word, value in words.items()}
    own_fake_node_cluster.create(pytorchjob(fake_node_namespace, "job", annotations=annotations))
    running = {"until": lambda pod: pod["status"]["phase"] == "Running", "what": "runs"}
    own_fake_node_cluster.wait_for_object("pod", "job-master-0", fake_node_namespace, **running)
    started = time.monotonic()

    own_fake_node_cluster.wait_for_object("pytorchjob", "job", fake_node_namespace, until=failed)
    pod = own_fake_node_cluster.get("pod", "job-master-0", "-n", fake_node_namespace)

    assert 1.5 < time.monotonic() - started < 10
    assert terminated(pod)["reason"] == "OOMKilled"


def test_a_pod_may_wait_for_an_image_for_ever(
    own_fake_node_cluster: FakeNodeCluster, fake_node_namespace: str, pytorchjob: Make
) -> None:
    annotations = {"pytorchjob.testbed/waiting": "ImagePullBackOff"}
    own_fake_node_cluster.create(pytorchjob(fake_node_namespace, "job", annotations=annotations))

    pod = own_fake_node_cluster.wait_for_object(
        "pod", "job-master-0", fake_node_namespace, until=lambda pod: pod["status"].get("containerStatuses")
    )

    assert pod["status"]["phase"] == "Pending"
    assert pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"


def test_a_job_with_more_gpus_than_a_node_has_is_not_scheduled(
    own_fake_node_cluster: FakeNodeCluster, fake_node_namespace: str, pytorchjob: Make
) -> None:
    own_fake_node_cluster.create(pytorchjob(fake_node_namespace, "job", gpus=5))

    own_fake_node_cluster.wait_for_object(
        "pod", "job-master-0", fake_node_namespace, until=lambda pod: condition(pod, "PodScheduled") == "False"
    )


def test_a_pod_of_a_job_of_kubernetes_ends_too(
    own_fake_node_cluster: FakeNodeCluster, fake_node_namespace: str
) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "localhost/none:1"}]}}
    metadata = {"namespace": fake_node_namespace, "name": "preflight"}
    own_fake_node_cluster.create(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}
    )

    own_fake_node_cluster.wait_for_object(
        "job", "preflight", fake_node_namespace, until=lambda job: condition(job, "Complete") == "True"
    )


def test_a_deleted_pod_takes_the_time_that_it_should(
    own_fake_node_cluster: FakeNodeCluster, fake_node_namespace: str, pytorchjob: Make
) -> None:
    annotations = {"pytorchjob.testbed/seconds": "1h", "pytorchjob.testbed/stop": "2s"}
    own_fake_node_cluster.create(pytorchjob(fake_node_namespace, "job", annotations=annotations))
    running = {"until": lambda pod: pod["status"]["phase"] == "Running", "what": "runs"}
    own_fake_node_cluster.wait_for_object("pod", "job-master-0", fake_node_namespace, **running)
    started = time.monotonic()

    own_fake_node_cluster.kubectl("delete", "pytorchjob", "job", "-n", fake_node_namespace, "--wait=false")
    own_fake_node_cluster.wait_until_gone("pod", "job-master-0", fake_node_namespace)

    assert 1.5 < time.monotonic() - started < 10


def test_the_webhook_refuses_what_it_refuses_upstream(own_fake_node_cluster: FakeNodeCluster, pytorchjob: Make) -> None:
    with FakeNodeCluster(nodes=1, webhook=True) as cluster, cluster.namespace() as namespace:
        wrong = pytorchjob(namespace, "job", container={"name": "other"})

        with pytest.raises(KubectlError, match=r"validator\.pytorchjob\.training-operator\.kubeflow\.org.*pytorch"):
            cluster.create(wrong)
