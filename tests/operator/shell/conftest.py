"""Replicas of the operator against a real API server, and a hand that plays training-operator and kubelet."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from testbed.api_cluster import ApiCluster, free_ports
from testbed.api_proxy import ApiProxy
from testbed.cluster import Cluster
from testbed.player import progress_document
from testbed.waiting import wait_until

from semires_operator import kube
from semires_operator.main import Operator
from semires_operator.settings import Settings

REPOSITORY = Path(__file__).parents[3]
SMALLEST = REPOSITORY / "manifests" / "examples" / "smallest.yaml"
T = TypeVar("T")
Raw = dict[str, Any]


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine; it may take 60 s."""

    def within(coroutine: Coroutine[Any, Any, T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(60):
                return await coroutine

        return asyncio.run(limited())

    return within


def connection_of(kubeconfig: Path) -> kube.Connection:
    """A kubeconfig of the testbed as a connection."""
    content = json.loads(kubeconfig.read_text())
    cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
    return kube.Connection(
        server=cluster["server"],
        ca_file=cluster.get("certificate-authority", ""),
        ca_data=cluster.get("certificate-authority-data", ""),
        token=user["token"],
    )


@pytest.fixture(scope="session")
def connection(own_api_cluster: ApiCluster) -> kube.Connection:
    """The administrator's."""
    return connection_of(own_api_cluster.kubeconfig)


@pytest.fixture
def proxy(own_api_cluster: ApiCluster, tmp_path: Path) -> Iterator[ApiProxy]:
    """A proxy before the API server, which counts."""
    made = ApiProxy(own_api_cluster.server, own_api_cluster.authority, tmp_path)
    yield made
    made.close()


@pytest.fixture
def proxied(proxy: ApiProxy, own_api_cluster: ApiCluster, tmp_path: Path) -> Path:
    """A kubeconfig by way of the proxy."""
    return proxy.kubeconfig_for(own_api_cluster.kubeconfig, tmp_path / "proxied.kubeconfig")


class Replica:
    """An operator in a thread of this process, with pods' addresses replaced by `address`."""

    def __init__(self, settings: Settings, connection: kube.Connection, address: str = "127.0.0.1:9") -> None:
        self.settings = settings
        self.error: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(connection, address), daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _run(self, connection: kube.Connection, address: str) -> None:
        async def operate() -> None:
            self.loop = asyncio.get_running_loop()
            self.operator = Operator(self.settings, connection, address=lambda _: address)
            self._ready.set()
            await self.operator.run()

        try:
            asyncio.run(operate())
        except BaseException as error:
            self.error = error

    def get(self, path: str) -> tuple[int, str]:
        return get(self.settings.http_port, path)

    def wait_until_ready(self) -> None:
        wait_until("the operator is ready", lambda: self.get("/readyz")[0] == 200, seconds=20)

    def stop(self) -> None:
        """Gracefully, as after SIGTERM."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.operator.stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert self.error is None, self.error


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of an operator's page; 0 if nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


class Process:
    """An operator as a program."""

    def __init__(self, kubeconfig: Path, folder: Path, *, name: str, namespace: str, **settings: str) -> None:
        self.port = free_ports(1)[0]
        self.log = folder / f"{name}.log"
        given = {"HTTP_PORT": str(self.port), "IDENTITY": name, "NAMESPACE": namespace, **settings}
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY / 'trainer'}",
            "KUBECONFIG": str(kubeconfig),
            **{f"SEMIRES_OPERATOR_{key}": value for key, value in given.items()},
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "semires_operator"], env=environment, stderr=log, stdout=log
            )

    def get(self, path: str) -> tuple[int, str]:
        return get(self.port, path)

    def wait_until_ready(self, seconds: float = 30) -> None:
        wait_until(
            "the operator is ready",
            lambda: self.get("/readyz")[0] == 200,
            seconds=seconds,
            seen=lambda: self.log.read_text()[-2000:],
        )

    @property
    def leads(self) -> bool:
        return "semires_operator_leader 1.0" in self.get("/metrics")[1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@pytest.fixture
def start_process(tmp_path: Path, stack: ExitStack) -> Callable[..., Process]:
    """Start an operator as a program."""

    def start(kubeconfig: Path, **settings: str) -> Process:
        process = Process(kubeconfig, tmp_path, **settings)
        stack.callback(process.close)
        return process

    return start


@pytest.fixture
def make_replica(stack: ExitStack) -> Callable[..., Replica]:
    """Start an operator with any settings in a thread."""

    def make(settings: Settings, connection: kube.Connection, address: str = "127.0.0.1:9") -> Replica:
        replica = Replica(settings, connection, address)
        stack.callback(replica.stop)
        return replica

    return make


@pytest.fixture
def start_replica(api_namespace: str, make_replica: Callable[..., Replica]) -> Callable[..., Replica]:
    """Start an operator for the test's namespace in a thread; it polls often."""

    def start(connection: kube.Connection, *, address: str = "127.0.0.1:9", **changed: Any) -> Replica:
        settings = Settings(
            **{
                "namespaces": (api_namespace,),
                "namespace": api_namespace,
                "http_port": free_ports(1)[0],
                "poll_seconds": 0.5,
                "progress_interval_seconds": 1,
                "discovery_seconds": 1,
                "checkpoint_wait_seconds": 3,
                "backoff_first_seconds": 0.5,
                **changed,
            }
        )
        replica = make_replica(settings, connection, address)
        replica.wait_until_ready()
        return replica

    return start


class Trainer(ThreadingHTTPServer):
    """What a training pod serves; the test says what."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.document: Raw | None = None
        self.checkpoints_asked = 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def show(self, pod: Raw, **changed: Any) -> None:
        """Serve the progress of this pod."""
        self.document = progress_document(pod, **changed)


class _Page(BaseHTTPRequestHandler):
    server: Trainer

    def do_GET(self) -> None:
        self._send(200 if self.server.document else 503, self.server.document or {})

    def do_POST(self) -> None:
        self.server.checkpoints_asked += 1
        self._send(202, {})

    def _send(self, status: int, content: Raw) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    """A server that plays all training pods."""
    made = Trainer()
    yield made
    made.shutdown()
    made.server_close()


class Hand:
    """Plays training-operator and kubelet in a namespace of a cluster without either."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def submit(self, name: str = "a", **spec: Any) -> Raw:
        """Create a job from the smallest example."""
        manifest = yaml.safe_load(SMALLEST.read_text())
        manifest["metadata"] = {"name": name, "namespace": self.namespace}
        manifest["spec"] |= spec
        self.cluster.create(manifest)
        return self.find("semiresjob", name)

    def find(self, kind: str, name: str) -> Raw:
        return self.cluster.wait_for_object(kind, name, self.namespace, seconds=20)

    def wait(self, name: str, what: str, until: Callable[[Raw], object], *, seconds: float = 30) -> Raw:
        """A job, once `until` is true of its status."""
        return self.cluster.wait_for_object(
            "semiresjob",
            name,
            self.namespace,
            until=lambda job: until(job.get("status", {})),
            what=what,
            seconds=seconds,
        )

    def wait_for_phase(self, name: str, *phases: str, seconds: float = 30) -> Raw:
        return self.wait(name, f"is {phases}", lambda status: status.get("phase") in phases, seconds=seconds)

    def patch(self, kind: str, name: str, patch: Raw, *, status: bool = False) -> None:
        sub = ["--subresource=status"] if status else []
        self.cluster.kubectl("patch", kind, name, "-n", self.namespace, "--type=merge", *sub, "-p", json.dumps(patch))

    def pass_preflight(self, name: str, **found: Any) -> None:
        """The kubelet ends the pod of a preflight Job well."""
        pod = wait_until(f"{name} has a pod", lambda: self.pods_of("job-name", name), seconds=20)[0]
        labels = pod["metadata"]["labels"]
        preflight = {"complete": False, "stagesDone": [], "images": 10, "labeled": 1, "warnings": [], **found}
        message = {
            "schemaVersion": 1,
            "job": labels["semires.dev/job"],
            "jobUid": labels["semires.dev/job-uid"],
            "attempt": int(labels["semires.dev/attempt"]),
            "podUid": pod["metadata"]["uid"],
            "exitCode": 0,
            "results": [],
            "bestCheckpoint": None,
            "lastCheckpoint": None,
            "preflight": preflight,
        }
        self.end(pod, container="preflight", message=json.dumps(message))

    def pods_of(self, label: str, value: str) -> list[Raw]:
        return self.cluster.items("pods", "-n", self.namespace, "-l", f"{label}={value}")

    def start(self, name: str) -> Raw:
        """training-operator makes the pod of a PyTorchJob and the kubelet runs it."""
        child = self.find("pytorchjob", name)
        template = child["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
        owner = {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "name": name,
            "uid": child["metadata"]["uid"],
            "controller": True,
        }
        metadata = {"name": f"{name}-master-0", "namespace": self.namespace, "ownerReferences": [owner]}
        metadata |= {key: template["metadata"][key] for key in ("labels", "annotations") if key in template["metadata"]}
        spec = {**template["spec"], "restartPolicy": "Never"}
        self.cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        state = {"running": {"startedAt": _now()}}
        status = {"phase": "Running", "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]}
        self.patch("pod", f"{name}-master-0", {"status": {**status, **_containers("pytorch", state)}}, status=True)
        self.condition(name, "Running")
        return self.find("pod", f"{name}-master-0")

    def condition(self, child: str, kind: str) -> None:
        """training-operator tells how a PyTorchJob is."""
        others = [] if kind == "Running" else [_condition("Running", "False")]
        self.patch("pytorchjob", child, {"status": {"conditions": [*others, _condition(kind, "True")]}}, status=True)

    def end(self, pod: Raw, *, container: str = "pytorch", exit_code: int = 0, message: str = "") -> None:
        """The kubelet tells that the container has ended."""
        reason = "Completed" if exit_code == 0 else "Error"
        ended = {"exitCode": exit_code, "reason": reason, "message": message, "finishedAt": _now(), "startedAt": _now()}
        phase = "Succeeded" if exit_code == 0 else "Failed"
        patch = {"status": {"phase": phase, **_containers(container, {"terminated": ended})}}
        self.patch("pod", pod["metadata"]["name"], patch, status=True)

    def end_training(self, name: str, *, exit_code: int = 0, **outcome: Any) -> None:
        """The trainer ends and training-operator tells it."""
        pod = self.find("pod", f"{name}-master-0")
        labels = pod["metadata"]["labels"]
        message = {
            "schemaVersion": 1,
            "job": labels["semires.dev/job"],
            "jobUid": labels["semires.dev/job-uid"],
            "attempt": int(labels["semires.dev/attempt"]),
            "podUid": pod["metadata"]["uid"],
            "exitCode": exit_code,
            "results": [],
            "bestCheckpoint": None,
            "lastCheckpoint": None,
            **outcome,
        }
        self.end(pod, exit_code=exit_code, message=json.dumps(message))
        self.condition(name, "Succeeded" if exit_code == 0 else "Failed")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _condition(kind: str, status: str) -> Raw:
    times = {"lastUpdateTime": _now(), "lastTransitionTime": _now()}
    return {"type": kind, "status": status, "reason": f"PyTorchJob{kind}", "message": "", **times}


def _containers(name: str, state: Raw) -> Raw:
    image = {"image": "i", "imageID": "registry/i@sha256:" + "0" * 64}
    ready = "running" in state
    return {"containerStatuses": [{"name": name, **image, "ready": ready, "restartCount": 0, "state": state}]}


@pytest.fixture
def hand(api_cluster: Cluster, api_namespace: str) -> Hand:
    """Plays training-operator and kubelet."""
    return Hand(api_cluster, api_namespace)


@pytest.fixture
def connection_of_file() -> Callable[[Path], kube.Connection]:
    """A kubeconfig as a connection."""
    return connection_of
