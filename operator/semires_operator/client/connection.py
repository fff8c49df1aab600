"""Which cluster is meant, and as whom: a kubeconfig, or the ServiceAccount of the pod that this runs in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client
from kubernetes import config as _config
from kubernetes.config.config_exception import ConfigException

from semires_operator.client.errors import NoCluster
from semires_trainer.spec.explain import did_you_mean

config: Any = _config
"""Its functions have no types."""
ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DEFAULT_KUBECONFIG = "~/.kube/config"
REMEDY = "Give --kubeconfig FILE, or set KUBECONFIG, or ask for a ~/.kube/config"


MERGE_PATCH = "application/merge-patch+json"


class MergingClient(client.ApiClient):
    """The official ApiClient, whose patches are merge patches: its versions 35 to 37 choose different ones."""

    def select_header_content_type(self, content_types: Any, *arguments: Any) -> Any:
        """The content type of a body."""
        if MERGE_PATCH in content_types:
            return MERGE_PATCH
        choose: Any = super().select_header_content_type
        return choose(content_types, *arguments)


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """A way to an API server, not used yet."""

    api: Any
    """The official client's ApiClient."""
    server: str
    """URL of the API server."""
    namespace: str
    """Where jobs are unless another namespace is named."""


def connect(
    kubeconfig: str | Path | None = None, context: str | None = None, *, environment: Mapping[str, str] = os.environ
) -> Connection:
    """The connection of a kubeconfig and a context, by default as kubectl chooses them. Nothing is asked yet.

    Raises NoCluster if there is no usable one.
    """
    given = str(kubeconfig) if kubeconfig is not None else environment.get("KUBECONFIG") or DEFAULT_KUBECONFIG
    files = [Path(part).expanduser() for part in given.split(os.pathsep) if part]
    found = os.pathsep.join(str(file) for file in files if file.is_file())
    settings = client.Configuration()
    settings.retries = False  # ours are those of watching; urllib3's would log each one
    if found:
        namespace = _load(found, context, settings)
    elif kubeconfig is None and "KUBERNETES_SERVICE_HOST" in environment:
        namespace = _load_account(settings)
    else:
        raise NoCluster(f"there is no kubeconfig at {given}", remedy=REMEDY)
    return Connection(api=MergingClient(settings), server=str(settings.host), namespace=namespace)


def _load(files: str, context: str | None, settings: Any) -> str:
    """Read the kubeconfig into `settings`; returns the namespace of its context."""
    try:
        contexts, active = config.list_kube_config_contexts(config_file=files)
        named = {entry["name"]: entry for entry in contexts}
        if context is not None and context not in named:
            problem = f'there is no context "{context}" in {files}'
            raise NoCluster(problem, remedy=did_you_mean(context, named))
        config.load_kube_config(config_file=files, context=context, client_configuration=settings)
    except (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError) as error:
        problem = f"the kubeconfig {files} can't be used ({' '.join(str(error).split())})"
        raise NoCluster(problem, remedy="Look at it with: kubectl config view") from error
    chosen = named[context] if context is not None else active
    return str(chosen["context"].get("namespace") or "default")


def _load_account(settings: Any) -> str:
    """Read the pod's ServiceAccount into `settings`; returns the pod's namespace."""
    try:
        config.load_incluster_config(client_configuration=settings)
        return ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip() or "default"
    except (ConfigException, OSError) as error:
        problem = f"this pod has no ServiceAccount token ({error})"
        raise NoCluster(problem, remedy="Set serviceAccountName and automountServiceAccountToken") from error
