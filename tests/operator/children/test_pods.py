"""What a pod may do, holds and asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from semires_operator.backends import build_child
from semires_operator.backends.preflight_job import build_preflight
from semires_operator.endpoints import Endpoint
from semires_operator.launch import Launch, image_of
from semires_operator.names import child_name
from semires_operator.settings import Settings
from semires_operator.sizes import bytes_of, disk_of, grace_seconds_of, whole_cores_of
from semires_operator.status import Preflight
from semires_operator.volumes import CA_ANNOTATION
from semires_trainer.config import SemiRESJob

Template = Callable[..., dict[str, Any]]
MakeLaunch = Callable[..., Launch]
GI = 1 << 30


def volume_of(template: dict[str, Any], name: str) -> dict[str, Any]:
    return {volume["name"]: volume for volume in template["spec"]["volumes"]}[name]


def variables_of(template: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in template["spec"]["containers"][0]["env"]}


def test_one_node_is_a_master_of_four_ranks(make_launch: MakeLaunch, settings: Settings) -> None:
    spec = build_child(make_launch(), settings)["spec"]

    assert spec["nprocPerNode"] == "4"
    assert spec["runPolicy"] == {"cleanPodPolicy": "None"}
    assert spec["pytorchReplicaSpecs"].keys() == {"Master"}
    master = spec["pytorchReplicaSpecs"]["Master"]
    assert (master["replicas"], master["restartPolicy"]) == (1, "Never")
    assert master["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"


def test_several_nodes_are_workers_of_a_fixed_number(make_launch: MakeLaunch, settings: Settings) -> None:
    spec = build_child(make_launch(resources={"nodes": 3}), settings)["spec"]

    assert spec["pytorchReplicaSpecs"].keys() == {"Worker"}
    assert spec["pytorchReplicaSpecs"]["Worker"]["replicas"] == 3
    assert (spec["elasticPolicy"]["minReplicas"], spec["elasticPolicy"]["maxReplicas"]) == (3, 3)
    assert spec["elasticPolicy"]["maxRestarts"] == 0
    (spread,) = spec["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"]["semires.dev/attempt"] == "1"


def test_the_cpu_trains_with_one_rank_and_asks_for_no_gpu(make_launch: MakeLaunch, settings: Settings) -> None:
    spec = build_child(make_launch(resources={"gpusPerNode": 0, "cpu": "6"}), settings)["spec"]
    template = spec["pytorchReplicaSpecs"]["Master"]["template"]

    assert spec["nprocPerNode"] == "1"
    assert template["spec"]["containers"][0]["resources"]["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}
    variables = variables_of(template)
    assert (variables["SEMIRES_GPUS"], variables["OMP_NUM_THREADS"], variables["NVIDIA_VISIBLE_DEVICES"]) == (
        *("0", "6"),
        "void",
    )


def test_the_longest_names_fit_into_a_host_name() -> None:
    name = child_name("j" * 45, 999_999)

    assert len(name) <= 54
    assert len(f"{name}-worker-63") <= 63


def test_children_are_found_and_go_with_their_job(make_launch: MakeLaunch, settings: Settings) -> None:
    launch = make_launch(queue="gpu-queue")
    child, preflight = build_child(launch, settings), build_preflight(launch, settings)

    for body in (child, preflight):
        (owner,) = body["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (launch.uid, True, False)
        assert body["metadata"]["labels"]["semires.dev/job-uid"] == launch.uid
    assert child["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu-queue"
    assert "kueue.x-k8s.io/queue-name" not in preflight["metadata"]["labels"]
    assert (child["metadata"]["name"], preflight["metadata"]["name"]) == ("refcoco-1pct-a1", "refcoco-1pct-p1")


def test_a_secret_becomes_files_and_no_variable(training_pod: Template) -> None:
    template = training_pod(storage={"credentialsSecret": "keys"})

    needed, optional = volume_of(template, "semires-credentials")["projected"]["sources"]
    assert [item["key"] for item in needed["secret"]["items"]] == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert "optional" not in needed["secret"]
    assert (optional["secret"]["items"][0]["key"], optional["secret"]["optional"]) == ("AWS_SESSION_TOKEN", True)
    assert volume_of(template, "semires-credentials")["projected"]["defaultMode"] == 0o440
    assert template["spec"]["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in template["spec"]
    assert not [name for name in variables_of(template) if name.startswith("AWS_")]


def test_a_token_is_mounted_for_a_named_service_account_only(training_pod: Template, preflight_pod: Template) -> None:
    for make in (training_pod, preflight_pod):
        spec = make(storage={"serviceAccountName": "trainer"})["spec"]

        assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("trainer", True)
        assert "semires-credentials" not in [volume["name"] for volume in spec["volumes"]]


def test_certificates_of_an_endpoint_come_by_the_pods_annotation(
    training_pod: Template, preflight_pod: Template, lab: Endpoint
) -> None:
    for make in (training_pod, preflight_pod):
        template = make({"endpoint": lab})

        assert template["metadata"]["annotations"][CA_ANNOTATION] == lab.ca_bundle
        (item,) = volume_of(template, "semires-endpoint")["downwardAPI"]["items"]
        assert item["fieldRef"]["fieldPath"] == f"metadata.annotations['{CA_ANNOTATION}']"


def test_a_preflight_pod_waits_for_no_node_with_gpus(preflight_pod: Template) -> None:
    pod = {
        "nodeSelector": {"gpu": "a100", "kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "runtimeClassName": "nvidia",
    }
    spec = preflight_pod(pod=pod)["spec"]

    assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64"}
    assert spec["tolerations"] == pod["tolerations"]
    assert not spec.keys() & {"runtimeClassName", "affinity"}
    assert "nvidia.com/gpu" not in spec["containers"][0]["resources"]["limits"]


def test_a_preflight_job_tries_once_and_removes_itself(make_launch: MakeLaunch, settings: Settings) -> None:
    spec = build_preflight(make_launch(preflight={"deadlineSeconds": 42, "memory": "1Gi"}), settings)["spec"]

    assert (spec["backoffLimit"], spec["ttlSecondsAfterFinished"]) == (0, 600)
    assert "activeDeadlineSeconds" not in spec["template"]["spec"]
    assert spec["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "1Gi"


def test_users_may_move_folders_and_allow_eviction_but_not_take_our_labels(training_pod: Template) -> None:
    safe = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    pod = {
        "env": [{"name": "HF_HOME", "value": "/mine"}],
        "annotations": {safe: "true"},
        "labels": {"app.kubernetes.io/managed-by": "me", "team": "a"},
    }
    template = training_pod(pod=pod)

    assert variables_of(template)["HF_HOME"] == "/mine"
    assert template["metadata"]["annotations"][safe] == "true"
    assert template["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "semires-operator"
    assert template["metadata"]["labels"]["team"] == "a"
    assert training_pod()["metadata"]["annotations"][safe] == "false"


def test_the_image_is_the_jobs_or_the_operators(make_job: Callable[..., SemiRESJob], settings: Settings) -> None:
    assert image_of(make_job().spec, settings) == settings.trainer_image
    assert image_of(make_job(image="mine:1").spec, settings) == "mine:1"


def test_pull_secrets_of_user_and_administrator_are_named_once(make_launch: MakeLaunch) -> None:
    settings = Settings(image_pull_secrets=("shared", "own"))
    body = build_preflight(make_launch(pod={"imagePullSecrets": [{"name": "own"}]}), settings)

    assert body["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "own"}, {"name": "shared"}]


@pytest.mark.parametrize(
    ("sections", "measured", "request_gi", "limit_gi", "cache_gi"),
    [
        pytest.param({}, None, 100, 100, 100, id="nothing known"),
        pytest.param({}, 20 * GI, 28, 56, 56, id="measured"),
        pytest.param({"resources": {"ephemeralStorage": "50Gi"}}, 20 * GI, 50, 50, 50, id="given"),
        pytest.param({"cache": {"sizeLimit": "30Gi"}}, 20 * GI, 38, 38, 30, id="size of the cache"),
        pytest.param({"cache": {"claim": "shared"}}, 20 * GI, 8, 8, 8, id="on a claim"),
    ],
)
def test_disk(
    sections: dict[str, Any],
    measured: int | None,
    request_gi: int,
    limit_gi: int,
    cache_gi: int,
    make_launch: MakeLaunch,
) -> None:
    found = disk_of(make_launch({"preflight": Preflight(attempt=1, ephemeral_storage_bytes=measured)}, **sections))

    assert (found.request, found.limit, found.cache) == (request_gi * GI, limit_gi * GI, cache_gi * GI)


def test_a_claim_is_mounted_as_the_cache(training_pod: Template) -> None:
    assert volume_of(training_pod(cache={"claim": "shared"}), "semires-cache") == {
        "name": "semires-cache",
        "persistentVolumeClaim": {"claimName": "shared"},
    }


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [("0", 0), ("1500m", 2), ("1.5Gi", 3 * 2**29), ("2k", 2000), ("1Ei", 2**60), ("3E", 3 * 10**18), ("7", 7)],
)
def test_quantities_are_kubernetes_own(quantity: str, expected: int) -> None:
    assert bytes_of(quantity) == expected


def test_part_of_a_core_is_none() -> None:
    assert [whole_cores_of(quantity) for quantity in ("500m", "2.9", "16")] == [0, 2, 16]


@pytest.mark.parametrize(
    ("upload_seconds", "expected"),
    [
        pytest.param(None, 300, id="by size"),
        pytest.param(10.0, 180, id="fast"),
        pytest.param(300.0, 750, id="slow"),
        pytest.param(9999.0, 3600, id="longest"),
    ],
)
def test_the_grace_period_covers_a_checkpoint(
    upload_seconds: float | None, expected: int, make_launch: MakeLaunch
) -> None:
    assert grace_seconds_of(make_launch({"upload_seconds": upload_seconds})) == expected
