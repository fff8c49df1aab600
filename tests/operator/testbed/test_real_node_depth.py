"""A real node: containers, DNS, Services, S3, Prometheus, four pretend GPUs."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testbed import images, network, s3_server
from testbed.cluster import KubectlError, condition
from testbed.real_cluster import RealCluster
from testbed.waiting import wait_until

Make = Callable[..., dict[str, Any]]
Object = dict[str, Any]

PYTHON = f"{images.NODE_PYTHON}/bin/python"
RANK = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
if dist.get_rank() == 0:
    import boto3
    from botocore.config import Config
    s3 = boto3.client("s3", endpoint_url=os.environ["S3"], config=Config(s3={"addressing_style": "path"}))
    text = f"{dist.get_world_size()} ranks, sum {total.item():g}, UID {os.getuid()}"
    s3.put_object(Bucket=os.environ["BUCKET"], Key="result", Body=text)
dist.destroy_process_group()
"""


@pytest.fixture(scope="session")
def base_image(own_real_cluster: RealCluster, say: Callable[[str], None]) -> str:
    own_real_cluster.load_image(images.node_base_archive(say))
    return images.NODE_BASE_IMAGE


@pytest.fixture
def bucket(own_real_cluster: RealCluster, real_namespace: str) -> str:
    own_real_cluster.make_bucket(real_namespace)
    return real_namespace


def restricted(image: str, command: list[str], **environment: str) -> tuple[Object, Object]:
    """Container and pod that the restricted standard admits, on a read-only root."""
    container: Object = {
        "image": image,
        "command": command,
        "env": [{"name": name, "value": value} for name, value in {"HOME": "/tmp", **environment}.items()],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    context = {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod: Object = {"securityContext": context, "volumes": [{"name": "tmp", "emptyDir": {}}]}
    return container, pod


def pod_of(namespace: str, name: str, image: str, command: list[str], **labels: str) -> Object:
    """A pod that runs once."""
    container, pod = restricted(image, command)
    metadata = {"namespace": namespace, "name": name, "labels": labels}
    spec = {**pod, "restartPolicy": "Never", "containers": [{"name": "main", **container}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_it_is_up_within_a_minute(own_real_cluster: RealCluster) -> None:
    assert own_real_cluster.start_seconds < 60


def test_four_ranks_train_in_a_restricted_namespace_and_write_to_s3(
    own_real_cluster: RealCluster, real_namespace: str, pytorchjob: Make, base_image: str, bucket: str
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": s3_server.ACCESS, "AWS_SECRET_ACCESS_KEY": s3_server.SECRET}
    place = {"S3": own_real_cluster.S3_URL, "BUCKET": bucket, "AWS_DEFAULT_REGION": s3_server.REGION}
    command = [PYTHON, "-m", "torch.distributed.run", "--no-python", PYTHON, "-c", RANK]
    container, pod = restricted(base_image, command, **keys, **place)
    own_real_cluster.create(pytorchjob(real_namespace, "job", container=container, pod=pod))

    own_real_cluster.wait_for_object(
        "pytorchjob",
        "job",
        real_namespace,
        until=lambda job: condition(job, "Succeeded") == "True" or _failed(own_real_cluster, real_namespace, job),
        seconds=120,
    )

    result = own_real_cluster.folder / "s3" / bucket / "result"
    assert result.read_text() == "4 ranks, sum 10, UID 10001"


def _failed(cluster: RealCluster, namespace: str, job: Object) -> bool:
    if condition(job, "Failed") == "True":
        pytest.fail(cluster.kubectl("logs", "-n", namespace, "job-master-0"))
    return False


def test_this_machine_reaches_pods_and_services_as_they_are(
    own_real_cluster: RealCluster, real_namespace: str, base_image: str
) -> None:
    serve = pod_of(real_namespace, "server", base_image, [PYTHON, "-m", "http.server", "8000"], app="server")
    service = {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]}
    metadata = {"namespace": real_namespace, "name": "server"}
    own_real_cluster.create(serve, {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service})
    running = own_real_cluster.wait_for_object(
        "pod", "server", real_namespace, until=lambda pod: condition(pod, "Ready") == "True", seconds=60
    )
    address = own_real_cluster.get("service", "server", "-n", real_namespace)["spec"]["clusterIP"]

    assert _answers(f"http://{running['status']['podIP']}:8000/")
    assert _answers(f"http://{address}/")


def _answers(url: str) -> bool:
    def ask() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    return wait_until(f"{url} answers", ask, seconds=20)


def test_a_pod_finds_services_by_name_and_this_machine(
    own_real_cluster: RealCluster, real_namespace: str, base_image: str
) -> None:
    script = (
        "import socket; print(socket.gethostbyname('kubernetes.default.svc.cluster.local'));"
        f"socket.create_connection(('{network.NODE}', 7070), timeout=5)"
    )
    own_real_cluster.create(pod_of(real_namespace, "asker", base_image, [PYTHON, "-c", script]))
    own_real_cluster.wait_for_object(
        "pod", "asker", real_namespace, until=lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"), seconds=60
    )

    assert own_real_cluster.kubectl("logs", "asker", "-n", real_namespace) == "10.96.0.1\n"


def test_a_container_that_takes_too_much_memory_is_killed_for_it(
    own_real_cluster: RealCluster, real_namespace: str, base_image: str
) -> None:
    eater = pod_of(real_namespace, "eater", base_image, [PYTHON, "-c", "bytearray(2**28)"])
    eater["spec"]["containers"][0]["resources"] = {"limits": {"memory": "64Mi"}}
    own_real_cluster.create(eater)
    pod = own_real_cluster.wait_for_object(
        "pod", "eater", real_namespace, until=lambda pod: pod["status"]["phase"] == "Failed", seconds=60
    )

    end = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (end["exitCode"], end["reason"]) == (137, "OOMKilled")


def test_a_termination_message_is_in_the_status(
    own_real_cluster: RealCluster, real_namespace: str, base_image: str
) -> None:
    script = "open('/dev/termination-log', 'w').write('the end'); raise SystemExit(3)"
    own_real_cluster.create(pod_of(real_namespace, "speaker", base_image, [PYTHON, "-c", script]))
    pod = own_real_cluster.wait_for_object(
        "pod", "speaker", real_namespace, until=lambda pod: pod["status"]["phase"] == "Failed", seconds=60
    )

    end = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (end["exitCode"], end["message"]) == (3, "the end")


def test_what_the_restricted_standard_forbids_is_refused(
    own_real_cluster: RealCluster, real_namespace: str, base_image: str
) -> None:
    root = pod_of(real_namespace, "root", base_image, ["true"])
    root["spec"]["securityContext"]["runAsNonRoot"] = False

    with pytest.raises(KubectlError, match="violates PodSecurity"):
        own_real_cluster.create(root)


def test_the_webhook_of_the_training_operator_is_asked(
    own_real_cluster: RealCluster, real_namespace: str, pytorchjob: Make
) -> None:
    with pytest.raises(KubectlError, match=r"validator\.pytorchjob\.training-operator\.kubeflow\.org"):
        own_real_cluster.create(pytorchjob(real_namespace, "job", container={"name": "other"}))


def test_prometheus_scrapes_a_port_named_metrics(
    own_real_cluster: RealCluster, real_namespace: str, base_image: str
) -> None:
    script = (
        "from http.server import *\n"
        "class Page(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.send_header('Content-Type', 'text/plain; version=0.0.4')\n"
        "        self.end_headers(); self.wfile.write(b'testbed_answer 42\\n')\n"
        "HTTPServer(('', 9464), Page).serve_forever()\n"
    )
    page = pod_of(real_namespace, "page", base_image, [PYTHON, "-c", script])
    page["spec"]["containers"][0]["ports"] = [{"name": "metrics", "containerPort": 9464}]
    own_real_cluster.create(page)

    query = urllib.parse.urlencode({"query": f'testbed_answer{{namespace="{real_namespace}",pod="page"}}'})
    url = f"{own_real_cluster.PROMETHEUS_URL}/api/v1/query?{query}"

    def found() -> list[Object]:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return list(json.load(answer)["data"]["result"])

    assert wait_until("the value is scraped", found, seconds=60, every=0.5)[0]["value"][1] == "42"


def test_an_image_of_a_dockerfile_on_the_local_base_runs(
    own_real_cluster: RealCluster, real_namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nCOPY word /word\nENTRYPOINT cat /word\n")
    (tmp_path / "word").write_text("built here\n")
    tag = "localhost/testbed-example:1"
    archive = tmp_path / "image.tar"
    images.build_image(tag, tmp_path / "Dockerfile", tmp_path, base=images.base_archive(), archive=archive)
    own_real_cluster.load_image(archive)

    own_real_cluster.create(pod_of(real_namespace, "example", tag, []))
    own_real_cluster.wait_for_object(
        "pod",
        "example",
        real_namespace,
        until=lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"),
        seconds=60,
    )

    assert own_real_cluster.kubectl("logs", "example", "-n", real_namespace) == "built here\n"
