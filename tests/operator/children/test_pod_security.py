"""A real API server takes our bodies, in a namespace that enforces the restricted Pod Security Standard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed.cluster import RESTRICTED, Cluster, KubectlError

from semires_operator.backends import build_child
from semires_operator.backends.preflight_job import build_preflight
from semires_operator.document import document_of
from semires_operator.launch import Launch
from semires_operator.seen import job_of
from semires_operator.settings import Settings
from semires_trainer.config import parse_job

SAMPLES = ("smallest", "four-gpus", "two-nodes", "all-pod-fields", "cpu")
EXAMPLES = [
    pytest.param(document, id=path.stem)
    for path in sorted((Path(__file__).parents[3] / "manifests" / "examples").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if document["kind"] == "SemiRESJob"
]
WANTED_BY_POD_FIELDS: tuple[dict[str, Any], ...] = (
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "research"}, "value": 10},
    {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"},
)


@pytest.fixture(scope="module")
def restricted(api_cluster: Cluster) -> Iterator[str]:
    """A restricted namespace in which there is what the pod fields of the samples name."""
    api_cluster.apply(*WANTED_BY_POD_FIELDS)
    with api_cluster.namespace(labels=RESTRICTED) as namespace:
        api_cluster.service_account(namespace, "trainer")
        yield namespace


def try_to_create(cluster: Cluster, namespace: str, body: dict[str, Any]) -> None:
    """All that an API server checks, and nothing is stored. Unknown fields are errors."""
    body = {**body, "metadata": {**body["metadata"], "namespace": namespace}}
    cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=body)


def pod_of(template: dict[str, Any]) -> dict[str, Any]:
    """What a controller makes of a template."""
    metadata, spec = {**template["metadata"], "name": "pod"}, {"restartPolicy": "Never", **template["spec"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("name", SAMPLES)
def test_pods_pass_the_restricted_standard(
    name: str, samples: dict[str, Launch], settings: Settings, api_cluster: Cluster, restricted: str
) -> None:
    preflight = build_preflight(samples[name], settings)
    (replica,) = build_child(samples[name], settings)["spec"]["pytorchReplicaSpecs"].values()

    for template in (preflight["spec"]["template"], replica["template"]):
        try_to_create(api_cluster, restricted, pod_of(template))


@pytest.mark.parametrize("name", SAMPLES)
def test_children_have_no_field_that_their_schemas_lack(
    name: str, samples: dict[str, Launch], settings: Settings, api_cluster: Cluster, restricted: str
) -> None:
    for body in (build_preflight(samples[name], settings), build_child(samples[name], settings)):
        try_to_create(api_cluster, restricted, body)


def test_a_pod_that_may_gain_rights_is_refused_there(
    samples: dict[str, Launch], settings: Settings, api_cluster: Cluster, restricted: str
) -> None:
    pod = pod_of(build_preflight(samples["smallest"], settings)["spec"]["template"])
    pod["spec"]["containers"][0]["securityContext"] = {}

    with pytest.raises(KubectlError, match="violates PodSecurity"):
        try_to_create(api_cluster, restricted, pod)


@pytest.mark.parametrize("document", EXAMPLES)
def test_an_example_is_taken_and_its_defaults_do_not_change_the_document(
    document: dict[str, Any], api_cluster: Cluster, restricted: str
) -> None:
    """What an API server stores has every default written out; the trainer is told only what the user said."""
    where = ["--namespace", restricted, "--dry-run=server", "--validate=strict", "-f", "-", "-o", "json"]
    stored = json.loads(api_cluster.kubectl("create", *where, input=document))
    spec = job_of({**stored, "metadata": {**stored["metadata"], "uid": "uid"}}).spec

    assert spec is not None
    assert "resources" in stored["spec"]
    assert document_of(parse_job({**document, "spec": spec})) == document_of(parse_job(document))


def test_the_shipped_operator_is_taken_and_its_pods_are_made(api_cluster: Cluster, render: Any) -> None:
    """The controllers make its pods in its own namespace, which is restricted; there is no node to run them."""
    objects = [found for found in render("cluster") if found["kind"] != "CustomResourceDefinition"]
    api_cluster.apply(*(found for found in objects if found["kind"] == "Namespace"))
    try:
        api_cluster.apply(*objects)
        found = api_cluster.wait_for_object(
            "deployment",
            "semires-operator",
            "semires-system",
            until=lambda seen: seen.get("status", {}).get("replicas") == 2,
        )
    finally:
        kinds = ("Namespace", "ClusterRole", "ClusterRoleBinding")
        for left in (one for one in objects if one["kind"] in kinds):
            api_cluster.kubectl("delete", left["kind"], left["metadata"]["name"], "--wait=false")

    assert not [one for one in found["status"]["conditions"] if one["type"] == "ReplicaFailure"]
