"""The folders of our pods: what a read-only root needs to be written to, and what is read. Pure."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from semires_operator.launch import Launch
from semires_operator.names import GROUP
from semires_trainer.config import Spec

CACHE, HOME, TMP, SHM = "/var/cache/semires", "/home/semires", "/tmp", "/dev/shm"
CREDENTIALS, ENDPOINT_FOLDER, CA_FILE = "/etc/semires/credentials", "/etc/semires/endpoint", "ca.crt"
CA_BUNDLE = f"{ENDPOINT_FOLDER}/{CA_FILE}"
CA_ANNOTATION = f"{GROUP}/endpoint-ca"
"""Of the pod: its file shows the endpoint's certificates, and no object has to be made for them."""
NEEDED_KEYS, OPTIONAL_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("AWS_SESSION_TOKEN",)
READ_BY_GROUP = 0o440


def cache_volume(claim: str | None, *, size: int) -> dict[str, Any]:
    """Where inputs and the work folder are: a claim, or a folder of `size` bytes that is lost with the pod."""
    source = {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {"sizeLimit": str(size)}}
    return {"name": "semires-cache", **source}


def shm_volume(size: str) -> dict[str, Any]:
    """Shared memory of the loader processes. What lies in it counts as memory of the container."""
    return {"name": "semires-shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}}


def credentials_volume(secret: str) -> dict[str, Any]:
    """The keys of a Secret that a trainer reads, and no others. The pod waits for the two that must be there."""
    needed = {"name": secret, "items": [{"key": key, "path": key} for key in NEEDED_KEYS]}
    optional = {"name": secret, "items": [{"key": key, "path": key} for key in OPTIONAL_KEYS], "optional": True}
    sources = [{"secret": needed}, {"secret": optional}]
    return {"name": "semires-credentials", "projected": {"defaultMode": READ_BY_GROUP, "sources": sources}}


def ca_volume() -> dict[str, Any]:
    """A file with the certificates in the pod's annotation."""
    item = {"path": CA_FILE, "fieldRef": {"fieldPath": f"metadata.annotations['{CA_ANNOTATION}']"}}
    return {"name": "semires-endpoint", "downwardAPI": {"defaultMode": READ_BY_GROUP, "items": [item]}}


def volumes_of(launch: Launch, *, cache: dict[str, Any], shm: str | None) -> list[dict[str, Any]]:
    """All volumes of a pod; the user's last."""
    storage = launch.job.spec.storage
    volumes = [
        cache,
        {"name": "semires-home", "emptyDir": {}},
        {"name": "semires-tmp", "emptyDir": {}},
    ]
    if shm is not None:
        volumes.append(shm_volume(shm))
    if storage and storage.credentials_secret:
        volumes.append(credentials_volume(storage.credentials_secret))
    if launch.endpoint.ca_bundle:
        volumes.append(ca_volume())
    given = launch.job.spec.pod.volumes
    return volumes + [volume.model_dump(mode="json", by_alias=True, exclude_defaults=True) for volume in given]


def output_is_kept(spec: Spec) -> bool:
    """Whether what a job writes outlives its pods: it is on S3, or below the folder of a claim that can be written."""
    path = PurePosixPath(spec.output.removeprefix("file://"))
    claims = {volume.name for volume in spec.pod.volumes if volume.persistent_volume_claim}
    folders = [mount.mount_path for mount in spec.pod.volume_mounts if mount.name in claims and not mount.read_only]
    folders += [CACHE] if spec.cache.claim else []
    return spec.output.startswith("s3://") or any(path.is_relative_to(folder) for folder in folders)


MOUNTS = {
    "semires-cache": CACHE,
    "semires-home": HOME,
    "semires-tmp": TMP,
    "semires-shm": SHM,
    "semires-credentials": CREDENTIALS,
    "semires-endpoint": ENDPOINT_FOLDER,
}
READ_ONLY = ("semires-credentials", "semires-endpoint")


def mounts_of(launch: Launch, volumes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where the volumes of a pod appear; the user's last."""
    names = [volume["name"] for volume in volumes if volume["name"] in MOUNTS]
    mounts: list[dict[str, Any]] = [
        {"name": name, "mountPath": MOUNTS[name], **({"readOnly": True} if name in READ_ONLY else {})} for name in names
    ]
    given = launch.job.spec.pod.volume_mounts
    return mounts + [mount.model_dump(mode="json", by_alias=True, exclude_defaults=True) for mount in given]
