"""The pods of an attempt: one that checks and one, on each node, that trains. Pure.

Both pass the restricted Pod Security Standard, and hold what the manifest's closed list of pod fields allows.
"""

from __future__ import annotations

from typing import Any

from semires_operator.environment import TERMINATION_LOG, preflight_variables, training_variables
from semires_operator.launch import Launch
from semires_operator.names import (
    ATTEMPT_LABEL,
    JOB_UID_LABEL,
    PORT,
    PORT_NAME,
    PREFLIGHT,
    PREFLIGHT_CONTAINER,
    TRAINER_CONTAINER,
    TRAINING,
)
from semires_operator.settings import Settings
from semires_operator.sizes import PREFLIGHT_BYTES, disk_of, grace_seconds_of
from semires_operator.volumes import CA_ANNOTATION, CACHE, HOME, cache_volume, mounts_of, volumes_of
from semires_trainer.config import Resources

USER_ID = 10001
UNDISTURBED = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""A training pod is not moved to save a node. The user's annotations may say otherwise."""
PLACES = (
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "kubernetes.io/hostname",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
)
"""Of a node selector, what a preflight pod keeps: its image and its volumes may need it. Other labels tend to name
nodes with GPUs, and a check that waits for one would be late."""
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
}


def training_template(launch: Launch, settings: Settings) -> dict[str, Any]:
    """Template of a training pod, whose restart policy its owner sets. ConfigError if the document is too long."""
    disk, pod = disk_of(launch), launch.job.spec.pod
    cache = cache_volume(launch.job.spec.cache.claim, size=disk.cache)
    volumes = volumes_of(launch, cache=cache, shm=launch.resources.shm)
    container = _container(launch, settings, volumes) | {
        "name": TRAINER_CONTAINER,
        "command": ["python", "-m", "semires_trainer.pod"],
        "env": training_variables(launch),
        "ports": [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        "resources": training_resources(launch.resources, request=disk.request, limit=disk.limit),
    }
    places = {
        "nodeSelector": pod.node_selector,
        "affinity": pod.affinity and pod.affinity.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "runtimeClassName": pod.runtime_class_name,
        "topologySpreadConstraints": spread_of(launch),
    }
    spec = _spec(launch, settings, container, volumes) | {name: value for name, value in places.items() if value}
    spec["terminationGracePeriodSeconds"] = grace_seconds_of(launch)
    return {"metadata": _metadata(launch, TRAINING, UNDISTURBED), "spec": spec}


def preflight_template(launch: Launch, settings: Settings) -> dict[str, Any]:
    """Template of a preflight pod: no GPU and no node of its own. ConfigError if the document is too long.

    It has no deadline of the kubelet's, which would count what it waits for: the check keeps its own, from when it
    runs, and the operator ends one that hangs. It leaves the cache's claim alone, unless something that it looks at
    lies there: a claim is often bound where its first pod runs, and that may be a zone without GPUs.
    """
    preflight = launch.job.spec.preflight
    claim = launch.job.spec.cache.claim if f"{CACHE}/" in launch.document.text else None
    volumes = volumes_of(launch, cache=cache_volume(claim, size=PREFLIGHT_BYTES), shm=None)
    amount = {"cpu": preflight.cpu, "memory": preflight.memory}
    container = _container(launch, settings, volumes) | {
        "name": PREFLIGHT_CONTAINER,
        "command": ["python", "-m", "semires_trainer.preflight"],
        "env": preflight_variables(launch),
        "resources": {
            "requests": {**amount, "ephemeral-storage": "1Gi"},
            "limits": {**amount, "ephemeral-storage": str(PREFLIGHT_BYTES)},
        },
    }
    spec = _spec(launch, settings, container, volumes)
    spec |= {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 10,
    }
    selector = {key: value for key, value in launch.job.spec.pod.node_selector.items() if key in PLACES}
    return {
        "metadata": _metadata(launch, PREFLIGHT, {}),
        "spec": spec | ({"nodeSelector": selector} if selector else {}),
    }


def training_resources(resources: Resources, *, request: int, limit: int) -> dict[str, Any]:
    """Requests equal limits, so the pod is the last to be evicted and fits into any quota. Disk may be exceeded."""
    amount = {"cpu": resources.cpu, "memory": resources.memory}
    if resources.gpus_per_node:
        amount[resources.gpu_resource] = str(resources.gpus_per_node)
    return {
        "requests": {**amount, "ephemeral-storage": str(request)},
        "limits": {**amount, "ephemeral-storage": str(limit)},
    }


def spread_of(launch: Launch) -> list[dict[str, Any]]:
    """Pods of several nodes go to different nodes where that is possible."""
    if launch.resources.nodes == 1:
        return []
    own = {JOB_UID_LABEL: launch.uid, ATTEMPT_LABEL: str(launch.attempt)}
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": own},
        }
    ]


def _metadata(launch: Launch, role: str, defaults: dict[str, str]) -> dict[str, Any]:
    """Labels and annotations of a pod: ours win, except over defaults."""
    pod, bundle = launch.job.spec.pod, launch.endpoint.ca_bundle
    ours = launch.annotations() | ({CA_ANNOTATION: bundle} if bundle else {})
    return {"labels": {**pod.labels, **launch.labels(role)}, "annotations": {**defaults, **pod.annotations, **ours}}


def _container(launch: Launch, settings: Settings, volumes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "image": launch.image,
        "imagePullPolicy": settings.image_pull_policy,
        "workingDir": HOME,
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts_of(launch, volumes),
    }


def _spec(
    launch: Launch, settings: Settings, container: dict[str, Any], volumes: list[dict[str, Any]]
) -> dict[str, Any]:
    """What all our pods have in common."""
    pod, storage = launch.job.spec.pod, launch.job.spec.storage
    account = storage.service_account_name if storage else None
    secrets = dict.fromkeys([*(secret.name for secret in pod.image_pull_secrets), *settings.image_pull_secrets])
    optional = {
        "serviceAccountName": account,
        "imagePullSecrets": [{"name": name} for name in secrets],
        "priorityClassName": pod.priority_class_name,
        "tolerations": [
            toleration.model_dump(mode="json", by_alias=True, exclude_defaults=True) for toleration in pod.tolerations
        ],
    }
    return {
        "enableServiceLinks": False,
        "automountServiceAccountToken": account is not None,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID if pod.fs_group is None else pod.fs_group,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
        **{name: value for name, value in optional.items() if value},
    }
