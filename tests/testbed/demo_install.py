"""The operator on a cluster, as docs/install.md does it: kustomize, with this machine's images and S3 in an overlay."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.cluster import REPOSITORY, Cluster
from testbed.demo_images import Image
from testbed.s3_server import REGION

NAMESPACE, NAME = "semires-system", "semires-operator"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{NAME}"
"""Who the operator is to the API server."""
Object = dict[str, Any]


def write_overlay(folder: Path, *, operator: Image, trainer: Image, s3_url: str) -> Path:
    """A kustomization on `manifests/overlays/cluster` in `folder`."""
    environment = {"SEMIRES_OPERATOR_TRAINER_IMAGE": trainer.tag}
    repository, _, tag = operator.tag.rpartition(":")
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(REPOSITORY / "manifests" / "overlays" / "cluster", folder.resolve())],
        "images": [{"name": NAME, "newName": repository, "newTag": tag}],
        "patches": [_patch("Deployment", _deployment(environment)), _patch("ConfigMap", _endpoints(s3_url))],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization, indent=2))
    return folder


def _patch(kind: str, body: Object) -> Object:
    return {"target": {"kind": kind, "name": body["metadata"]["name"]}, "patch": json.dumps(body)}


def _deployment(environment: Mapping[str, str]) -> Object:
    variables = [{"name": name, "value": value} for name, value in environment.items()]
    container = {"name": "operator", "env": variables}
    # Prometheus of the testbed finds pods by these, as many do.
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
    template = {"metadata": {"annotations": annotations}, "spec": {"containers": [container]}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME}, "spec": {"template": template}}


def _endpoints(url: str) -> Object:
    listed = {"default": {"url": url, "region": REGION, "pathStyle": True}}
    data = {"endpoints.yaml": json.dumps(listed, indent=2)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "semires-endpoints"}, "data": data}


def install(cluster: Cluster, overlay: Path) -> None:
    """Apply it, and wait until all replicas are ready."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(overlay))
    rollout = ("rollout", "status", f"deployment/{NAME}", "--timeout=120s")
    cluster.kubectl("-n", NAMESPACE, *rollout, seconds=130)
