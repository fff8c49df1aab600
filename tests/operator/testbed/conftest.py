"""Objects that the tests of the testbed create."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Object = dict[str, Any]
MakeJob = Callable[..., Object]


@pytest.fixture(scope="session")
def config_map() -> Callable[..., Object]:
    """A ConfigMap, owned by `owner` if there is one."""

    def make(namespace: str, name: str, owner: Object | None = None) -> Object:
        metadata: Object = {"namespace": namespace, "name": name}
        if owner is not None:
            own = owner["metadata"]
            reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": own["name"]}
            metadata["ownerReferences"] = [{**reference, "uid": own["uid"]}]
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}

    return make


@pytest.fixture(scope="session")
def pytorchjob() -> MakeJob:
    """A PyTorchJob of one Master with GPUs; `pod` and `container` add to its pod's specification."""

    def make(
        namespace: str,
        name: str,
        *,
        gpus: int = 4,
        annotations: dict[str, str] | None = None,
        container: Object | None = None,
        pod: Object | None = None,
    ) -> Object:
        resources = {"limits": {"nvidia.com/gpu": str(gpus)}}
        main = {"name": "pytorch", "image": "localhost/none:1", "resources": resources, **(container or {})}
        template = {"metadata": {"annotations": annotations or {}}, "spec": {"containers": [main], **(pod or {})}}
        master = {"replicas": 1, "restartPolicy": "Never", "template": template}
        return {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"nprocPerNode": "4", "pytorchReplicaSpecs": {"Master": master}},
        }

    return make
