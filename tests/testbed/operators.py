"""The operator as a program, with the rights that our manifests give it and no others."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from testbed import programs
from testbed.api_cluster import free_ports
from testbed.cluster import REPOSITORY, Cluster, Object
from testbed.waiting import wait_until

ACCOUNT = "semires-operator"
RIGHTS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
HASTY = {
    "POLL_SECONDS": "0.5",
    "PROGRESS_INTERVAL_SECONDS": "1",
    "BACKOFF_FIRST_SECONDS": "0.2",
    "CHECKPOINT_WAIT_SECONDS": "1",
    "DISCOVERY_SECONDS": "2",
    "LEASE_SECONDS": "2",
    "LEASE_RENEW_SECONDS": "1.5",
    "LEASE_RETRY_SECONDS": "0.3",
}
"""Settings that make a life of a job short."""
SHIPPED_LEASE = {"LEASE_SECONDS": "12", "LEASE_RENEW_SECONDS": "8", "LEASE_RETRY_SECONDS": "2"}
"""As without any settings: two replicas, or a machine that is busy."""


@contextmanager
def rights(cluster: Cluster, namespace: str, *, overlay: str = "namespaced") -> Iterator[Path]:
    """The kubeconfig of the ServiceAccount that an overlay of our manifests makes, as if installed in `namespace`."""
    found = [_moved(one, namespace) for one in _manifests(overlay) if one["kind"] in RIGHTS]
    found = [one for one in found if "aggregate" not in str(one["metadata"].get("labels", {}))]
    cluster.apply(*found)
    try:
        yield cluster.account_kubeconfig(namespace, ACCOUNT)
    finally:
        for one in found:
            if one["kind"].startswith("Cluster"):
                cluster.kubectl("delete", one["kind"], one["metadata"]["name"])


@functools.cache
def _manifests(overlay: str) -> tuple[Object, ...]:
    folder = REPOSITORY / "manifests" / "overlays" / overlay
    text = subprocess.run(
        [str(programs.KUBECTL.path), "kustomize", str(folder)], check=True, capture_output=True, text=True
    ).stdout
    return tuple(yaml.safe_load_all(text))


def _moved(manifest: Object, namespace: str) -> Object:
    """The same in another namespace; what has none gets the namespace into its name."""
    moved: Object = yaml.safe_load(yaml.safe_dump(manifest))
    for subject in moved.get("subjects", ()):
        subject["namespace"] = namespace
    if "namespace" in moved["metadata"]:
        moved["metadata"]["namespace"] = namespace
    else:
        moved["metadata"]["name"] += f"-{namespace}"
    if moved.get("roleRef", {}).get("kind") == "ClusterRole":
        moved["roleRef"]["name"] += f"-{namespace}"
    return moved


class OperatorProcess:
    """One replica: started, killed, started again, always on the same port and with the same log."""

    def __init__(self, kubeconfig: Path, folder: Path, *, namespace: str, name: str = "one", **settings: str) -> None:
        """`settings`: fields of semires_operator.settings in capitals."""
        self.name = name
        self.port = free_ports(1)[0]
        self.log = folder / f"operator-{name}.log"
        given = {"HTTP_PORT": str(self.port), "IDENTITY": name, "NAMESPACE": namespace, **settings}
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in ("operator", "trainer")),
            "KUBECONFIG": str(kubeconfig),
            **{f"SEMIRES_OPERATOR_{key}": value for key, value in given.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self) -> None:
        """Start it; one that runs is left alone."""
        if self.alive:
            return
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "semires_operator"]
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        self.starts += 1

    def signal(self, number: int) -> None:
        """Send a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    @property
    def alive(self) -> bool:
        """It runs."""
        return self._process is not None and self._process.poll() is None

    def exit_code(self, *, seconds: float) -> int:
        """Of a process that ends by itself. TimeoutExpired if it does not."""
        assert self._process is not None
        return self._process.wait(seconds)

    @property
    def resident_mib(self) -> float:
        """Memory that it holds."""
        assert self._process is not None
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:"))) / 1024

    def page(self, path: str) -> tuple[int, str]:
        """Status and text of one of its pages; 0 if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    @property
    def leads(self) -> bool:
        """It says so itself."""
        return "semires_operator_leader 1.0" in self.page("/metrics")[1]

    def wait_until_ready(self, *, seconds: float = 60) -> None:
        """Until /readyz says so."""
        wait_until(f"{self.name} is ready", lambda: self.page("/readyz")[0] == 200, seconds=seconds, seen=self.tail)

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def tracebacks(self) -> int:
        """Errors in its log that nobody expected."""
        return self.log.read_text(errors="replace").count("Traceback (most recent call last)")

    def close(self) -> None:
        """End it, also if it is stopped."""
        if self.alive:
            self.kill()


def settings_of(namespace: str, **changed: Any) -> dict[str, str]:
    """Hasty settings of a namespaced operator."""
    return {**HASTY, "NAMESPACES": namespace, **{key: str(value) for key, value in changed.items()}}
