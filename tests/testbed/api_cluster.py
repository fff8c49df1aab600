"""The first depth: etcd, API server and controller manager on loopback ports, for the user who runs the tests."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from testbed import certificates, programs, requirements, runs
from testbed.cluster import Cluster, Object, write_secret
from testbed.go_tools import Say
from testbed.processes import Processes
from testbed.programs import Program
from testbed.waiting import wait_until

WRITES = ("create", "update", "patch", "delete", "deletecollection")
SERVICES, FIRST_SERVICE = "10.96.0.0/16", "10.96.0.1"
_AUDIT_POLICY: Object = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": list(WRITES)},
        {"level": "None", "nonResourceURLs": ["*"]},
        {"level": "None", "userGroups": ["system:masters", "system:nodes", "system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
    ],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Where the control plane listens."""

    etcd: int
    """For the API server."""
    etcd_peer: int
    """For other members, of which there are none."""
    apiserver: int
    """TLS."""
    controller_manager: int
    """Health and metrics, TLS."""


class ApiCluster(Cluster):
    """A control plane without nodes. A context manager: `with ApiCluster() as cluster: ...`."""

    PROGRAMS: ClassVar[tuple[Program, ...]] = programs.FOR_API
    DEPTH: ClassVar[str] = "api"
    ADDRESS: ClassVar[str] = "127.0.0.1"
    CONTROLLERS: ClassVar[str] = "*"
    """Which controllers run."""

    def __init__(self, folder: Path | None = None, *, say: Say = lambda _: None) -> None:
        """With `folder` the cluster outlives this process, until `stop`; else it goes with it."""
        self.say = say
        requirements.check(self.DEPTH)
        programs.build_all(self.PROGRAMS, say)
        folder = folder or runs.new_run(self.DEPTH)
        super().__init__(folder, folder / "admin.kubeconfig")
        self.processes = self._make_processes()
        self.ports = self._choose_ports()

    def _make_processes(self) -> Processes:
        return Processes(self.folder)

    def _choose_ports(self) -> Ports:
        known = self.folder / "ports.json"
        if not known.exists():
            names = ("etcd", "etcd_peer", "apiserver", "controller_manager")
            known.write_text(json.dumps(dict(zip(names, free_ports(len(names)), strict=True))))
        return Ports(**json.loads(known.read_text()))

    def __enter__(self) -> Self:
        self.bring_up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://{self.ADDRESS}:{self.ports.apiserver}"

    @property
    def authority(self) -> certificates.Pair:
        """Signs the certificates of this cluster."""
        return certificates.pair_in(self.folder, "ca")

    def bring_up(self) -> None:
        """Start, and leave nothing behind if that fails."""
        started = time.monotonic()
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        (self.folder / "start-seconds").write_text(f"{time.monotonic() - started:.1f}")

    @property
    def start_seconds(self) -> float:
        """How long its start took."""
        return float((self.folder / "start-seconds").read_text())

    def start(self) -> None:
        """Bring everything up, and wait until it answers."""
        self._make_identities()
        self.start_etcd()
        self.start_apiserver()
        # The garbage collector looks for new kinds every 30 s: those that are there when it starts it knows at once.
        self._install_crds()
        self.start_controller_manager()
        self._wait_for_crds()

    def stop(self) -> None:
        """End everything, and remove its state."""
        self.processes.kill_all()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_identities(self) -> None:
        certificates.make_authority(self.folder, "ca")
        own = (f"IP:{address}" for address in sorted({"127.0.0.1", FIRST_SERVICE, self.ADDRESS}))
        service = "kubernetes.default.svc"
        hosts = ("DNS:localhost", "DNS:kubernetes", "DNS:kubernetes.default", f"DNS:{service}", *own)
        certificates.issue(self.authority, self.folder, "api", subject="/CN=kube-apiserver", names=hosts)
        certificates.make_key(self.folder / "accounts.key")
        users = self._users()
        tokens = {name: secrets.token_hex(16) for name in users}
        lines = [f'{tokens[name]},{name},{name},"{",".join(groups)}"' for name, groups in users.items()]
        write_secret(self.folder / "tokens.csv", "\n".join(lines) + "\n")
        for name, token in tokens.items():
            write_secret(self.kubeconfig_of(name), json.dumps(self._kubeconfig(token)))

    def _users(self) -> dict[str, tuple[str, ...]]:
        """Groups by user name; each gets a token and a kubeconfig."""
        return {"admin": ("system:masters",), "system:kube-controller-manager": ()}

    def kubeconfig_of(self, user: str) -> Path:
        """Of a user that the cluster was started with."""
        return self.folder / f"{user.rpartition(':')[2]}.kubeconfig"

    def _kubeconfig(self, token: str) -> Object:
        authority = str(self.authority.certificate)
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "testbed",
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
            "clusters": [{"name": "testbed", "cluster": {"server": self.server, "certificate-authority": authority}}],
            "users": [{"name": "testbed", "user": {"token": token}}],
        }

    def start_etcd(self) -> None:
        """Start etcd; its data are those that it had."""
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.ports.etcd, self.ports.etcd_peer))
        listen = ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
        members = ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        data = ["--data-dir", self.folder / "etcd", "--unsafe-no-fsync", "--log-level", "warn"]
        self.processes.start("etcd", [programs.ETCD.path, *listen, *members, *data])

    def kill_etcd(self) -> None:
        """SIGKILL; `start_etcd` brings it back."""
        self.processes.stop("etcd", number=signal.SIGKILL)

    def start_apiserver(self, *, seconds: float = 60) -> None:
        """Start the API server, and wait until it is ready."""
        self.processes.start("apiserver", [programs.APISERVER.path, *self._apiserver_flags()])
        self.wait_for_apiserver(seconds=seconds)

    def wait_for_apiserver(self, *, seconds: float = 60) -> None:
        """Until it says that it is ready."""

        def ready() -> bool:
            self.processes.check("apiserver")
            return self.answers("/readyz")

        wait_until("the API server is ready", ready, seconds=seconds, seen=lambda: self.processes.tail("apiserver"))

    def stop_apiserver(self, *, kill: bool = False) -> None:
        """End the API server, at once with `kill`. It would wait a minute for its watches; five seconds are enough."""
        self.processes.stop("apiserver", number=signal.SIGKILL if kill else signal.SIGTERM, seconds=5)

    def restart_apiserver(self, *, kill: bool = False) -> None:
        """End the API server and start it again, on the same port."""
        self.stop_apiserver(kill=kill)
        self.start_apiserver()

    def _apiserver_flags(self) -> list[object]:
        write_secret(self.folder / "audit-policy.json", json.dumps(_AUDIT_POLICY))
        key = self.folder / "accounts.key"
        return [
            *("--etcd-servers", f"http://127.0.0.1:{self.ports.etcd}"),
            *("--bind-address", self._bind_address(), "--secure-port", str(self.ports.apiserver)),
            *("--tls-cert-file", self.folder / "api.crt", "--tls-private-key-file", self.folder / "api.key"),
            *("--client-ca-file", self.authority.certificate, "--token-auth-file", self.folder / "tokens.csv"),
            *("--service-account-issuer", "https://kubernetes.default.svc", "--service-cluster-ip-range", SERVICES),
            *("--service-account-signing-key-file", key, "--service-account-key-file", key),
            *("--authorization-mode", "Node,RBAC", "--allow-privileged"),
            *("--audit-policy-file", self.folder / "audit-policy.json", "--audit-log-path", self.audit_log),
            *self._advertised(),
        ]

    def _bind_address(self) -> str:
        return self.ADDRESS

    def _advertised(self) -> list[str]:
        """No pod will ask for the service `kubernetes`, and a loopback address may not be one of its endpoints."""
        return ["--endpoint-reconciler-type", "none"]

    def start_controller_manager(self) -> None:
        """Start the controller manager, and wait until it has written what each namespace gets."""
        config = self.kubeconfig_of("system:kube-controller-manager")
        keys = ["--service-account-private-key-file", self.folder / "accounts.key"]
        trust = ["--root-ca-file", self.authority.certificate, "--use-service-account-credentials"]
        listen = ["--bind-address", "127.0.0.1", "--secure-port", str(self.ports.controller_manager)]
        # With its usual 20 requests a second it would take seconds to get a token for each of its controllers.
        pace = ["--kube-api-qps", "200", "--kube-api-burst", "400"]
        options = ["--kubeconfig", config, "--leader-elect=false", "--controllers", self.CONTROLLERS, *pace]
        command = [programs.CONTROLLER_MANAGER.path, *options, *keys, *trust, *listen]
        self.processes.start("controller-manager", [*command, "--cert-dir", self.folder / "controller-manager"])

        def works() -> bool:
            self.processes.check("controller-manager")
            return self.answers("/api/v1/namespaces/default/configmaps/kube-root-ca.crt")

        tail = self.processes.tail
        wait_until("the controller manager works", works, seconds=60, seen=lambda: tail("controller-manager"))

    @property
    def audit_log(self) -> Path:
        """JSON lines, one for each write, and for each read of a ServiceAccount outside kube-system."""
        return self.folder / "audit.log"

    def audited(self, user: str, *, verbs: Sequence[str] = WRITES) -> list[Object]:
        """The audited requests of `user` that were answered, in order; verb and object are in them."""
        lines = self.audit_log.read_text().splitlines() if self.audit_log.exists() else []
        events = (json.loads(line) for line in lines)
        return [event for event in events if event["user"].get("username") == user and event["verb"] in verbs]

    def answers(self, path: str) -> bool:
        """The API server answers the administrator on `path` with 200."""
        user = json.loads(self.kubeconfig.read_text())["users"][0]["user"]
        request = urllib.request.Request(self.server + path, headers={"Authorization": f"Bearer {user['token']}"})
        trust = ssl.create_default_context(cafile=str(self.authority.certificate))
        try:
            with urllib.request.urlopen(request, context=trust, timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False


def free_ports(number: int) -> list[int]:
    """Loopback ports that are free now, all different, and not of those that the kernel gives to connections.

    Of those one might be taken for a connection while the server that had it is restarted.
    """
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(max(10_000, first_of_kernel - 15_000), first_of_kernel)
    chosen: list[int] = []
    while len(chosen) < number:
        port = secrets.choice(candidates)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):  # taken
                listener.bind(("127.0.0.1", port))
                chosen += [port] if port not in chosen else []
    return chosen
