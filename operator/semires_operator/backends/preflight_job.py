"""The check before an attempt, as a Job of Kubernetes. Pure."""

from __future__ import annotations

from typing import Any

from semires_operator.launch import Launch
from semires_operator.names import PREFLIGHT, preflight_name
from semires_operator.pod import preflight_template
from semires_operator.settings import Settings

TTL_SECONDS = 600
"""It removes itself this long after its end; what it has found is in the job's status by then."""


def build_preflight(launch: Launch, settings: Settings) -> dict[str, Any]:
    """The Job that checks. It tries once: what a failure means is decided elsewhere. ConfigError for a long document.

    It is in no queue: it holds no GPU, and tells before one is waited for.
    """
    labels = launch.labels(PREFLIGHT)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": preflight_name(launch.name, launch.attempt),
            "namespace": launch.namespace,
            "labels": labels,
            "annotations": launch.annotations(),
            "ownerReferences": [launch.owner()],
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "ttlSecondsAfterFinished": TTL_SECONDS,
            "template": preflight_template(launch, settings),
        },
    }
