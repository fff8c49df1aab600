"""The bodies as YAML, to be read and compared. SEMIRES_WRITE_GOLDEN=1 writes them again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from semires_operator.backends import build_child
from semires_operator.backends.preflight_job import build_preflight
from semires_operator.endpoints import Endpoint
from semires_operator.launch import Launch
from semires_operator.settings import Settings
from semires_operator.status import Preflight

GOLDEN = Path(__file__).parent / "golden"
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


@pytest.mark.parametrize("name", CASES)
def test_bodies_are_as_they_were_read(
    name: str, make_launch: Callable[..., Launch], settings: Settings, lab: Endpoint
) -> None:
    changes, sections = CASES[name]
    launch = make_launch(changes | ({"endpoint": lab} if "storage" in sections else {}), **sections)
    bodies = [build_preflight(launch, settings), build_child(launch, settings)]
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("SEMIRES_WRITE_GOLDEN"):
        path.write_text(yaml.dump_all(bodies, Dumper=WithoutAliases, sort_keys=False, width=120))

    assert list(yaml.safe_load_all(path.read_text())) == bodies


class WithoutAliases(yaml.SafeDumper):
    """What occurs twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never a reference."""
        return True
