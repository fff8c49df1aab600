"""The environment of our containers: the seam to the trainer's `pod_run.py`, `orders.py` and `connection.py`. Pure."""

from __future__ import annotations

from typing import Any

from semires_operator.launch import Launch
from semires_operator.names import PORT
from semires_operator.sizes import whole_cores_of
from semires_operator.volumes import CA_BUNDLE, CACHE, CREDENTIALS, HOME, TMP

TERMINATION_LOG = "/dev/termination-log"

FOLDERS = {
    "HOME": HOME,
    "USER": "semires",
    "TMPDIR": TMP,
    "XDG_CACHE_HOME": f"{HOME}/.cache",
    "HF_HOME": f"{CACHE}/huggingface",
    "TORCH_HOME": f"{CACHE}/torch",
    "MPLCONFIGDIR": f"{HOME}/matplotlib",
    "TRITON_CACHE_DIR": f"{HOME}/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{HOME}/inductor",
}
"""Where libraries write on a read-only root, whatever the image says. Downloads go to the cache, which may be kept."""
NO_GPUS = {"NVIDIA_VISIBLE_DEVICES": "void"}
"""Where NVIDIA's runtime is the default one, an image's own `all` would show a container every GPU of its node."""


def training_variables(launch: Launch) -> list[dict[str, Any]]:
    """Of a training container; training-operator adds PET_* and MASTER_*."""
    gpus = launch.resources.gpus_per_node
    values = {"SEMIRES_PORT": str(PORT), "SEMIRES_GPUS": str(gpus), **({} if gpus else NO_GPUS)}
    return _variables(launch, values | _cores(launch))


def _cores(launch: Launch) -> dict[str, str]:
    """The pod's CPUs, where Python 3.13 and OpenMP would count its node's. torchrun sees to several ranks."""
    cores = str(max(1, whole_cores_of(launch.resources.cpu)))
    return {"PYTHON_CPU_COUNT": cores} | ({"OMP_NUM_THREADS": cores} if launch.ranks_per_node == 1 else {})


def preflight_variables(launch: Launch) -> list[dict[str, Any]]:
    """Of a preflight container; PET_* as the training pods will have them."""
    nodes = launch.resources.nodes
    values = {
        "PET_NNODES": "1" if nodes == 1 else f"{nodes}:{nodes}",
        "PET_NPROC_PER_NODE": str(launch.ranks_per_node),
        **NO_GPUS,
    }
    return _variables(launch, values)


def _variables(launch: Launch, values: dict[str, str]) -> list[dict[str, Any]]:
    """Folders, the user's, ours. The user may choose other folders; a name of ours can't be the user's."""
    given = [variable.model_dump(mode="json", by_alias=True, exclude_none=True) for variable in launch.job.spec.pod.env]
    names = {variable["name"] for variable in given}
    folders = {name: value for name, value in FOLDERS.items() if name not in names}
    ours = {name: value for name, value in values.items() if name not in names}
    return [*_literal(folders), *given, *_literal({**ours, **_told(launch)}), *_of_the_pod()]


def _told(launch: Launch) -> dict[str, str]:
    """What a trainer is told of its job."""
    document, endpoint, storage = launch.document, launch.endpoint, launch.job.spec.storage
    told = {
        "SEMIRES_DOCUMENT": document.text,
        "SEMIRES_DOCUMENT_SHA256": document.sha256,
        "SEMIRES_JOB_UID": launch.uid,
        "SEMIRES_ATTEMPT": str(launch.attempt),
        "SEMIRES_CACHE": CACHE,
        "SEMIRES_TERMINATION_LOG": TERMINATION_LOG,
        "SEMIRES_ENDPOINT_PATH_STYLE": str(endpoint.path_style).lower(),
    }
    optional = {
        "SEMIRES_ENDPOINT_URL": endpoint.url,
        "SEMIRES_ENDPOINT_REGION": endpoint.region,
        "SEMIRES_ENDPOINT_CA": CA_BUNDLE if endpoint.ca_bundle else None,
        "SEMIRES_CREDENTIALS": CREDENTIALS if storage and storage.credentials_secret else None,
    }
    return told | {name: value for name, value in optional.items() if value}


def _literal(values: dict[str, str]) -> list[dict[str, Any]]:
    """Variables with these values, of which none holds a dollar sign that Kubernetes would expand."""
    return [{"name": name, "value": value} for name, value in values.items()]


def _of_the_pod() -> list[dict[str, Any]]:
    """What is known only once there is a pod."""
    fields = {"SEMIRES_POD_NAME": "metadata.name", "SEMIRES_POD_UID": "metadata.uid"}
    return [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
