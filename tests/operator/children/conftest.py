"""Launches of jobs, and what a kubelet makes of the environment of a container."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed import programs

from semires_operator.backends import build_child
from semires_operator.backends.preflight_job import build_preflight
from semires_operator.endpoints import Endpoint
from semires_operator.launch import Launch
from semires_operator.settings import Settings
from semires_operator.status import Preflight
from semires_trainer.config import SemiRESJob, parse_job

MANIFESTS = Path(__file__).parents[3] / "manifests"
MakeJob = Callable[..., SemiRESJob]
MakeLaunch = Callable[..., Launch]
SMALLEST: dict[str, Any] = {
    "dataset": {
        "name": "RefCOCO",
        "annotations": "s3://data/refer",
        "images": "s3://data/train2014",
        "labeled": {"percent": "1"},
    },
    "proposals": {"sam": {"weights": "s3://models/sam_vit_h_4b8939.pth"}},
    "output": "s3://results/refcoco-1pct",
}
ALL_POD_FIELDS: dict[str, Any] = {
    "nodeSelector": {"nvidia.com/gpu.product": "A100", "kubernetes.io/arch": "amd64"},
    "tolerations": [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "value": "vision", "effect": "NoExecute", "tolerationSeconds": 60},
    ],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}]
            }
        },
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 10,
                    "podAffinityTerm": {
                        "labelSelector": {"matchLabels": {"app": "noisy"}},
                        "topologyKey": "kubernetes.io/hostname",
                    },
                }
            ]
        },
    },
    "env": [
        {"name": "HF_ENDPOINT", "value": "https://hub.example"},
        {"name": "PROXY", "valueFrom": {"configMapKeyRef": {"name": "proxy", "key": "url", "optional": True}}},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ],
    "volumes": [
        {"name": "data", "persistentVolumeClaim": {"claimName": "coco", "readOnly": True}},
        {"name": "config", "configMap": {"name": "words"}},
        {"name": "keys", "secret": {"secretName": "hub", "optional": True}},
        {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
    ],
    "volumeMounts": [
        {"name": "data", "mountPath": "/data", "subPath": "train2014", "readOnly": True},
        {"name": "config", "mountPath": "/config"},
        {"name": "keys", "mountPath": "/keys"},
        {"name": "fast", "mountPath": "/fast"},
    ],
    "imagePullSecrets": [{"name": "registry"}],
    "runtimeClassName": "nvidia",
    "priorityClassName": "research",
    "labels": {"team": "vision"},
    "annotations": {"example.com/owner": "me"},
    "fsGroup": 2000,
}
CREDENTIALS = {"storage": {"credentialsSecret": "s3-credentials"}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "smallest": ({}, {}),
    "four-gpus": (
        {"attempt": 2, "preflight": Preflight(attempt=2, ephemeral_storage_bytes=20 << 30)},
        {**CREDENTIALS, "queue": "gpu-queue"},
    ),
    "two-nodes": ({}, {**CREDENTIALS, "resources": {"nodes": 2, "gpusPerNode": 8}}),
    "all-pod-fields": (
        {},
        {"pod": ALL_POD_FIELDS, "storage": {"serviceAccountName": "trainer"}, "cache": {"claim": "inputs"}},
    ),
    "cpu": ({}, {"resources": {"gpusPerNode": 0, "cpu": "8", "memory": "16Gi", "shm": "1Gi"}}),
}
EXPANSION = re.compile(r"\$(?:\$|\(([^()$]*)\))")


@pytest.fixture(scope="session")
def make_job() -> MakeJob:
    """A job whose spec is the smallest one with these sections changed."""

    def make(name: str = "refcoco-1pct", **sections: Any) -> SemiRESJob:
        spec = {**SMALLEST, **sections}
        return parse_job(
            {"apiVersion": "semires.dev/v1alpha1", "kind": "SemiRESJob", "metadata": {"name": name}, "spec": spec}
        )

    return make


@pytest.fixture(scope="session")
def lab() -> Endpoint:
    """An endpoint of an administrator's list, with everything that one may have."""
    pem = "-----BEGIN CERTIFICATE-----\nTUlJQg==\n-----END CERTIFICATE-----\n"
    return Endpoint(url="https://s3.lab.example:9000", region="us-east-1", path_style=False, ca_bundle=pem)


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings(trainer_image="registry.example/semires-trainer:1")


@pytest.fixture(scope="session")
def make_launch(make_job: MakeJob) -> MakeLaunch:
    """The first attempt of a job with these sections."""

    def make(changes: dict[str, Any] | None = None, **sections: Any) -> Launch:
        given: dict[str, Any] = {
            "uid": "11111111-2222-3333-4444-555555555555",
            "namespace": "team-a",
            "attempt": 1,
            "image": "registry.example/semires-trainer:1",
        }
        return Launch(job=make_job(**sections), **given | (changes or {}))

    return make


@pytest.fixture(scope="session")
def samples(make_launch: MakeLaunch, lab: Endpoint) -> dict[str, Launch]:
    """One launch of each kind, by name; those with storage are given an endpoint with certificates."""
    return {
        name: make_launch(changes | ({"endpoint": lab} if "storage" in sections else {}), **sections)
        for name, (changes, sections) in CASES.items()
    }


@pytest.fixture(scope="session")
def training_pod(make_launch: MakeLaunch, settings: Settings) -> Callable[..., dict[str, Any]]:
    """The template of the training pods of a job."""

    def make(changes: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
        body = build_child(make_launch(changes, **sections), settings)
        (replica,) = body["spec"]["pytorchReplicaSpecs"].values()
        template: dict[str, Any] = replica["template"]
        return template

    return make


@pytest.fixture(scope="session")
def preflight_pod(make_launch: MakeLaunch, settings: Settings) -> Callable[..., dict[str, Any]]:
    """The template of the preflight pod of a job."""

    def make(changes: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
        template: dict[str, Any] = build_preflight(make_launch(changes, **sections), settings)["spec"]["template"]
        return template

    return make


@pytest.fixture(scope="session")
def environment_of() -> Callable[[dict[str, Any]], dict[str, str]]:
    """The environment that a kubelet gives the container of a template (the last of two variables counts)."""

    def environment(template: dict[str, Any]) -> dict[str, str]:
        found: dict[str, str] = {}
        for variable in template["spec"]["containers"][0]["env"]:
            if "valueFrom" in variable:
                found[variable["name"]] = f"<{variable['valueFrom']}>"
            else:
                found[variable["name"]] = expanded(variable.get("value", ""), found)
        return found

    return environment


def expanded(text: str, known: dict[str, str]) -> str:
    """As Kubernetes does it: $$ is a dollar, $(NAME) the value of a variable before, or itself if there is none."""
    return EXPANSION.sub(
        lambda match: "$" if match[1] is None else known.get(match[1], match[0]),
        text,
    )


@pytest.fixture(scope="session")
def kubectl() -> Path:
    """The testbed's, built if need be."""
    return programs.KUBECTL.build()


@pytest.fixture(scope="session")
def render(kubectl: Path) -> Callable[[str], list[dict[str, Any]]]:
    """The objects of an overlay."""

    def run(overlay: str) -> list[dict[str, Any]]:
        command = [str(kubectl), "kustomize", str(MANIFESTS / "overlays" / overlay)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return list(yaml.safe_load_all(done.stdout))

    return run
