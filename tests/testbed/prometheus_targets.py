"""Tells Prometheus which pods to scrape: Debian's build of it cannot ask Kubernetes itself.

`python -m testbed.prometheus_targets KUBECTL KUBECONFIG FILE` watches all pods, and keeps FILE (file_sd) up to
date until it is ended.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed.watching import Watch

LONG_SECONDS = 10**7


def main(arguments: Sequence[str]) -> None:
    """Watch, and begin anew whenever the watch ends."""
    kubectl, kubeconfig, file = arguments
    while True:
        pods: dict[str, list[dict[str, Any]]] = {}
        with Watch([kubectl, "--kubeconfig", kubeconfig, "get", "pods", "--all-namespaces"]) as watch:
            for change, pod in watch.events(time.monotonic() + LONG_SECONDS):
                pods[pod["metadata"]["uid"]] = [] if change == "DELETED" else targets_of(pod)
                _write(Path(file), [target for targets in pods.values() for target in targets])
        time.sleep(0.5)


def targets_of(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Each port named `metrics` of a running pod; or the annotated one (prometheus.io/scrape, port, path)."""
    address = pod.get("status", {}).get("podIP")
    if pod.get("status", {}).get("phase") != "Running" or not address:
        return []
    annotations = pod["metadata"].get("annotations", {})
    declared = [port for one in pod["spec"]["containers"] for port in one.get("ports", [])]
    ports = {str(port["containerPort"]) for port in declared if port.get("name") == "metrics"}
    if annotations.get("prometheus.io/scrape") == "true" and "prometheus.io/port" in annotations:
        ports.add(annotations["prometheus.io/port"])
    labels = {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}
    labels["__metrics_path__"] = annotations.get("prometheus.io/path", "/metrics")
    return [{"targets": [f"{address}:{port}"], "labels": labels} for port in sorted(ports)]


def _write(file: Path, targets: list[dict[str, Any]]) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(targets))
    partial.replace(file)


if __name__ == "__main__":
    main(sys.argv[1:])
