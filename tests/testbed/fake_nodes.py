"""The second depth: also a scheduler, the training-operator as a process, and nodes that kwok pretends."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import ClassVar

import yaml
from testbed import certificates, go_tools, pretend_pods, programs
from testbed.api_cluster import ApiCluster, free_ports
from testbed.cluster import Object, condition, training_operator_manifests
from testbed.go_tools import Say
from testbed.programs import Program
from testbed.waiting import wait_until

GPU = "nvidia.com/gpu"
KUBEFLOW = "kubeflow"
WEBHOOK_SECRET = "training-operator-webhook-cert"
WEBHOOK_FOLDER = Path("/tmp/k8s-webhook-server/serving-certs")
"""The training-operator knows no other place."""


class FakeNodeCluster(ApiCluster):
    """A control plane with `nodes` pretended nodes of `gpus` GPUs; see pretend_pods for how pods live on them."""

    PROGRAMS: ClassVar[tuple[Program, ...]] = programs.FOR_FAKE_NODES
    DEPTH: ClassVar[str] = "fake"
    # Pods have loopback addresses here, which an endpoint may not have.
    CONTROLLERS: ClassVar[str] = "*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller"
    POD_ADDRESSES: ClassVar[str] = "127.64.0.0/12"
    """A test may listen on a pod's address, and nobody else answers there: a connection is refused at once."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        nodes: int = 4,
        gpus: int = 4,
        run_seconds: float = 1.0,
        webhook: bool = False,
        training_operator_flags: tuple[str, ...] = (),
        say: Say = lambda _: None,
    ) -> None:
        super().__init__(folder, say=say)
        self.nodes, self.gpus, self.run_seconds, self.webhook = nodes, gpus, run_seconds, webhook
        self._flags = training_operator_flags

    def start(self) -> None:
        """Also the scheduler, the nodes and the training-operator."""
        super().start()
        self._start_scheduler()
        self._start_kwok()
        self.start_training_operator()
        self._wait_for_nodes()

    def _users(self) -> dict[str, tuple[str, ...]]:
        masters = ("system:masters",)
        return {**super()._users(), "system:kube-scheduler": (), "kwok": masters, "training-operator": masters}

    def _start_scheduler(self) -> None:
        (port,) = free_ports(1)
        config = ["--kubeconfig", self.kubeconfig_of("system:kube-scheduler")]
        listen = ["--bind-address", "127.0.0.1", "--secure-port", str(port), "--cert-dir", self.folder / "scheduler"]
        self.processes.start("scheduler", [programs.SCHEDULER.path, *config, "--leader-elect=false", *listen])

    def _start_kwok(self) -> None:
        names = [f"node-{number}" for number in range(1, self.nodes + 1)]
        self.create(*(pretend_pods.node(name, gpus=self.gpus, resource=GPU) for name in names))
        stages = self.folder / "stages.yaml"
        stages.write_text(yaml.safe_dump_all(pretend_pods.stages(run_seconds=self.run_seconds)))
        config = ["--kubeconfig", self.kubeconfig_of("kwok"), "--config", stages]
        options = ["--manage-all-nodes", "--cidr", self.POD_ADDRESSES, "--node-ip", "127.0.0.1", "--node-port", "0"]
        self.processes.start("kwok", [programs.KWOK.path, *config, *options], environment={"HOME": str(self.folder)})

    def _wait_for_nodes(self) -> None:
        def ready() -> bool:
            self.processes.check("kwok")
            return all(condition(node, "Ready") == "True" for node in self.items("nodes"))

        wait_until(f"{self.nodes} nodes are ready", ready, seconds=60, seen=lambda: self.processes.tail("kwok"))

    def start_training_operator(self) -> None:
        """Start it, and wait until it watches PyTorchJobs."""
        self._give_certificates()
        metrics, probes, webhook = free_ports(3)
        if self.webhook:
            self.apply(self._webhook_configuration(webhook))
        listen = [f"--metrics-bind-address=127.0.0.1:{metrics}", f"--health-probe-bind-address=127.0.0.1:{probes}"]
        options = ["--enable-scheme=pytorchjob", f"--webhook-server-port={webhook}", *self._flags]
        config = ["--kubeconfig", self.kubeconfig_of("training-operator")]
        log = self.processes.log("training-operator")
        said_before = log.stat().st_size if log.exists() else 0
        self.processes.start("training-operator", [programs.TRAINING_OPERATOR.path, *config, *listen, *options])

        def watches() -> bool:
            self.processes.check("training-operator")
            return b"Starting workers" in log.read_bytes()[said_before:]

        tail = self.processes.tail
        wait_until("the training-operator works", watches, seconds=60, seen=lambda: tail("training-operator"))

    def _give_certificates(self) -> None:
        """The training-operator wants a certificate for its webhook, whether or not anyone calls it."""
        authority, serving = webhook_certificates()
        WEBHOOK_FOLDER.mkdir(parents=True, exist_ok=True)
        for source, name in ((serving.certificate, "tls.crt"), (serving.key, "tls.key")):
            shutil.copyfile(source, WEBHOOK_FOLDER / name)
        files = {
            "ca.crt": authority.certificate,
            "ca.key": authority.key,
            "tls.crt": serving.certificate,
            "tls.key": serving.key,
        }
        data = {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()}
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KUBEFLOW}},
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": WEBHOOK_SECRET, "namespace": KUBEFLOW},
                "data": data,
            },
        )

    def _webhook_configuration(self, port: int) -> Object:
        """Upstream's, for PyTorchJob only, reached by URL because no node can carry its service."""
        text = (training_operator_manifests() / "base" / "webhook" / "manifests.yaml").read_text()
        found: Object = next(one for one in yaml.safe_load_all(text) if one["kind"] == "ValidatingWebhookConfiguration")
        found["metadata"]["name"] = "validator.training-operator.kubeflow.org"
        found["webhooks"] = [one for one in found["webhooks"] if "pytorchjob" in one["name"]]
        for webhook in found["webhooks"]:
            path = webhook["clientConfig"].pop("service")["path"]
            webhook["clientConfig"]["url"] = f"https://127.0.0.1:{port}{path}"
        return found


def webhook_certificates() -> tuple[certificates.Pair, certificates.Pair]:
    """Authority and serving certificate, the same for all clusters of this user: they share WEBHOOK_FOLDER."""
    folder = go_tools.cache_folder() / "webhook"
    with go_tools.locked(folder / ".lock"):
        authority, serving = certificates.pair_in(folder, "authority"), certificates.pair_in(folder, "serving")
        if not (folder / "complete").exists():
            certificates.make_authority(folder, "authority", dns_name="training-operator-ca", rsa=True)
            host = f"training-operator.{KUBEFLOW}.svc"
            names = (f"DNS:{host}", "DNS:localhost", "IP:127.0.0.1")
            certificates.issue(authority, folder, "serving", subject=f"/CN={host}", names=names)
            (folder / "complete").touch()
    return authority, serving
