"""The third depth: a node with containerd and kubelet, DNS, Services, S3 and Prometheus, in a network namespace.

There is one such cluster on a machine at a time, shared by all that ask for it: the first starts it, the last ends it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar, Self

import yaml
from testbed import certificates, go_tools, images, leftovers, network, node_config, programs, runs
from testbed.api_cluster import ApiCluster, Ports
from testbed.cluster import Object, condition, training_operator_manifests
from testbed.fake_nodes import GPU, KUBEFLOW, webhook_secret
from testbed.go_tools import Say
from testbed.node_config import NODE_NAME, PROMETHEUS_PORT, S3_PORT, Mount
from testbed.processes import Processes
from testbed.programs import Program
from testbed.s3_server import ACCESS, REGION, SECRET
from testbed.waiting import wait_until

GPUS = 4
PROGRAM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class InUseError(RuntimeError):
    """Another process uses the cluster."""


class RealCluster(ApiCluster):
    """A node with four pretend GPUs, on which containers run."""

    PROGRAMS: ClassVar[tuple[Program, ...]] = programs.FOR_REAL_NODE
    DEPTH: ClassVar[str] = "real"
    ADDRESS: ClassVar[str] = network.NODE
    S3_URL: ClassVar[str] = f"http://{network.NODE}:{S3_PORT}"
    """Reached from pods and from this machine; ACCESS, SECRET and REGION of s3_server."""
    PROMETHEUS_URL: ClassVar[str] = f"http://{network.NODE}:{PROMETHEUS_PORT}"

    def __init__(self, *, mounts: tuple[Mount, ...] | None = None, say: Say = lambda _: None) -> None:
        """`mounts` are given to each container; without it, this project's Python environment (images.NODE_PYTHON)."""
        folder = runs.runs_folder() / self.DEPTH
        folder.mkdir(exist_ok=True)
        super().__init__(folder, say=say)
        self.mounts = python_environment() if mounts is None else mounts
        self._users_lock: IO[str] | None = None

    def _make_processes(self) -> Processes:
        return Processes(self.folder, prefix=network.ENTER)

    def _choose_ports(self) -> Ports:
        """It has a namespace of its own."""
        return Ports(etcd=2379, etcd_peer=2380, apiserver=6443, controller_manager=10257)

    # Sharing

    def __enter__(self) -> Self:
        with _turn(self.say):
            if not self.running or not (self.kept or _used()):
                self._begin_anew()
            self._users_lock = _users_file()
            fcntl.flock(self._users_lock, fcntl.LOCK_SH)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _turn(self.say):
            if self._users_lock is not None:
                self._users_lock.close()
            if not self.kept and not _used():
                self.stop()

    def keep(self) -> None:
        """Start it, unless it runs, and let it run until `stop`."""
        with _turn(self.say):
            if not self.running:
                self._begin_anew()
            (self.folder / "kept").touch()

    @property
    def kept(self) -> bool:
        """It stays when its last user goes."""
        return (self.folder / "kept").exists()

    @property
    def running(self) -> bool:
        """All its processes run, and the API server answers."""
        names = self.processes.names()
        return bool(names) and all(map(self.processes.alive, names)) and self.answers("/readyz")

    def _begin_anew(self) -> None:
        if _used():
            raise InUseError(f"the cluster in {self.folder} is broken, but others use it: end them first")
        self.stop()
        self.bring_up()

    # Starting

    def start(self) -> None:
        """Bring everything up, and wait until the node is ready and PyTorchJobs are admitted."""
        self.folder.mkdir(exist_ok=True)
        self.processes = self._make_processes()
        network.up()
        self._make_identities()
        self._start_containerd()
        self.start_etcd()
        self.start_apiserver()
        self._install_crds()
        self.start_controller_manager()
        self._wait_for_crds()
        self._start_node()
        self._start_services()
        self._wait_for_node()
        self._deploy_training_operator()
        self._wait_for_services()

    def stop(self) -> None:
        """End all processes and containers; remove mounts, namespaces, cgroups and state."""
        leftovers.end_real_run(self.folder, self.processes)

    def _users(self) -> dict[str, tuple[str, ...]]:
        masters = ("system:masters",)
        node = {f"system:node:{NODE_NAME}": ("system:nodes",), "system:kube-proxy": ()}
        return {**super()._users(), "system:kube-scheduler": (), **node, "coredns": masters, "prometheus": masters}

    def _make_identities(self) -> None:
        super()._make_identities()
        names = (f"DNS:{NODE_NAME}", f"IP:{network.NODE}")
        certificates.issue(self.authority, self.folder, "kubelet", subject=f"/CN={NODE_NAME}", names=names)
        subject = "/O=system:masters/CN=kube-apiserver-kubelet-client"
        certificates.issue(self.authority, self.folder, "api-kubelet", subject=subject)

    def _bind_address(self) -> str:
        return "0.0.0.0"

    def _advertised(self) -> list[str]:
        client = certificates.pair_in(self.folder, "api-kubelet")
        return [
            *("--advertise-address", network.NODE),
            *("--kubelet-client-certificate", str(client.certificate), "--kubelet-client-key", str(client.key)),
            *("--kubelet-certificate-authority", str(self.authority.certificate)),
            *("--kubelet-preferred-address-types", "InternalIP"),
        ]

    def _start_containerd(self) -> None:
        node_config.cni(self.folder)
        default = json.loads(self._run(programs.CTR.path, "oci", "spec"))
        node_config.base_spec(self.folder, default, self.mounts)
        command = [programs.CONTAINERD.path, "--config", node_config.containerd(self.folder)]
        path = f"{programs.CONTAINERD_SHIM.path.parent}:{PROGRAM_PATH}"
        self.processes.start("containerd", command, environment={"PATH": path})
        wait_until(
            "containerd answers", self._containerd_answers, seconds=30, seen=lambda: self.processes.tail("containerd")
        )
        self.load_image(images.pause_archive())
        self.load_image(images.training_operator_archive(_training_operator_image()))

    def _containerd_answers(self) -> bool:
        self.processes.check("containerd")
        command = [str(programs.CTR.path), "--address", str(node_config.socket(self.folder)), "version"]
        return subprocess.run(command, capture_output=True).returncode == 0

    def _start_node(self) -> None:
        leftovers.make_cgroups()
        scheduler = ["--kubeconfig", self.kubeconfig_of("system:kube-scheduler"), "--leader-elect=false"]
        self.processes.start("scheduler", [programs.SCHEDULER.path, *scheduler, "--bind-address", "127.0.0.1"])
        config = node_config.kubelet(self.folder, self.authority.certificate)
        identity = ["--kubeconfig", self.kubeconfig_of(f"system:node:{NODE_NAME}"), "--hostname-override", NODE_NAME]
        options = ["--node-ip", network.NODE, "--root-dir", self.folder / "kubelet"]
        self.processes.start("kubelet", [programs.KUBELET.path, "--config", config, *identity, *options])
        proxy = node_config.kube_proxy(self.folder, self.kubeconfig_of("system:kube-proxy"))
        self.processes.start("kube-proxy", [programs.KUBE_PROXY.path, "--config", proxy])

    def _start_services(self) -> None:
        names = node_config.coredns(self.folder, self.kubeconfig_of("coredns"))
        self.processes.start("coredns", [programs.COREDNS.path, "-conf", names])
        for folder in ("s3", "accounts", "rules"):
            (self.folder / folder).mkdir()
        where = ["--port", f"{network.NODE}:{S3_PORT}", "--region", REGION, "--iam-dir", self.folder / "accounts"]
        command = [programs.VERSITYGW.path, *where, "--quiet", "--keep-alive", "posix", self.folder / "s3"]
        keys = {"ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET}
        self.processes.start("s3", command, environment=keys)
        self._start_prometheus()

    def _start_prometheus(self) -> None:
        files = [self.kubeconfig_of("prometheus"), node_config.targets(self.folder)]
        command = [sys.executable, "-m", "testbed.prometheus_targets", programs.KUBECTL.path, *files]
        self.processes.start("targets", command, environment={"PYTHONPATH": str(Path(__file__).parents[1])})
        config = node_config.prometheus(self.folder)
        storage = [f"--storage.tsdb.path={self.folder / 'prometheus'}", "--web.enable-lifecycle"]
        listen = [f"--config.file={config}", f"--web.listen-address={network.NODE}:{PROMETHEUS_PORT}"]
        self.processes.start("prometheus", ["prometheus", *listen, *storage])

    def _wait_for_node(self) -> None:
        """Ready, and with four pretend GPUs: an extended resource that scheduler and kubelet account for."""

        def ready(node: Object) -> bool:
            self.processes.check("kubelet")
            return condition(node, "Ready") == "True"

        self.wait_for_object("node", NODE_NAME, until=ready, seconds=60, what="is ready")
        capacity = [{"op": "add", "path": f"/status/capacity/{GPU.replace('/', '~1')}", "value": str(GPUS)}]
        self.kubectl("patch", "node", NODE_NAME, "--subresource=status", "--type=json", "-p", json.dumps(capacity))

    def _deploy_training_operator(self) -> None:
        """Upstream's manifests, but for what would take half of the start: 15 s to its first probe, and as long for
        the kubelet to notice that it has filled its webhook's Secret.
        """
        folder = training_operator_manifests() / "overlays" / "standalone"
        objects = list(yaml.safe_load_all(self.kubectl("kustomize", str(folder))))
        for deployment in (one for one in objects if one["kind"] == "Deployment"):
            for container in deployment["spec"]["template"]["spec"]["containers"]:
                container["readinessProbe"] |= {"initialDelaySeconds": 1, "periodSeconds": 2}
                del container["livenessProbe"]  # a busy machine would have it restarted, later and later
        first = [one for one in objects if one["kind"] == "Namespace"]
        self.apply(*first)
        self.apply(*(one for one in objects if one["kind"] not in ("Namespace", "Secret")), webhook_secret())
        self.kubectl("-n", KUBEFLOW, "rollout", "status", "deployment/training-operator", "--timeout=120s", seconds=130)

    def _wait_for_services(self) -> None:
        """Nobody else would notice that one of them has ended."""

        def ready() -> bool:
            self.processes.check("prometheus")
            return _answers(f"{self.PROMETHEUS_URL}/-/ready")

        wait_until("Prometheus is ready", ready, seconds=30, seen=lambda: self.processes.tail("prometheus"))
        for name in self.processes.names():
            self.processes.check(name)

    # Using

    def load_image(self, archive: Path) -> None:
        """Give the node an image, as `docker save` or images.write_archive writes it."""
        address = ("--address", str(node_config.socket(self.folder)), "--namespace", "k8s.io")
        self._run(programs.CTR.path, *address, "images", "import", "--local", str(archive))

    def make_bucket(self, name: str) -> Path:
        """A new bucket; its objects are files in the folder."""
        folder = self.folder / "s3" / name
        folder.mkdir()
        return folder

    @staticmethod
    def _run(program: Path, *arguments: str) -> str:
        result = subprocess.run([str(program), *arguments], capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"{program.name} {' '.join(arguments)}: {result.stderr[-2000:]}")
        return result.stdout


def end_real_cluster(say: Say) -> None:
    """End it, whatever state it is in; InUseError if tests use it."""
    folder = runs.runs_folder() / RealCluster.DEPTH
    with _turn(say):
        (folder / "kept").unlink(missing_ok=True)
        if _used():
            raise InUseError("tests use the cluster: it goes when the last of them ends")
        leftovers.end_real_run(folder, Processes(folder))


def _turn(say: Say) -> contextlib.AbstractContextManager[None]:
    """Held by the one who starts or ends it, or who begins or ceases to use it."""
    return go_tools.locked(runs.runs_folder() / ".real.turn", say=say)


def _users_file() -> IO[str]:
    """Locked, together, by all who use it."""
    return (runs.runs_folder() / ".real.users").open("w")


def _used() -> bool:
    with _users_file() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def python_environment() -> tuple[Mount, ...]:
    """The environment that runs this, at images.NODE_PYTHON, and the interpreter that it points to, at its own path."""
    return (
        Mount(source=Path(sys.prefix), destination=images.NODE_PYTHON),
        Mount(source=Path(sys.base_prefix), destination=sys.base_prefix),
    )


def _training_operator_image() -> str:
    kustomization = training_operator_manifests() / "overlays" / "standalone" / "kustomization.yaml"
    (image,) = yaml.safe_load(kustomization.read_text())["images"]
    return f"{image.get('newName', image['name'])}:{image['newTag']}"
