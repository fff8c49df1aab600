"""A cluster with pretended nodes on which every job has something wrong, and the operator that must tell it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed.api_client import ApiClient, Refused
from testbed.bench import SMALLEST, Bench, bench
from testbed.cluster import Object
from testbed.fake_nodes import FakeNodeCluster
from testbed.operators import SHIPPED_LEASE, OperatorProcess

TABLE = Path(__file__).parents[1] / "bad_input" / "later" / "cluster.yaml"
ENDPOINTS = {
    "default": {"url": "https://s3.example.com"},
    "vision-only": {"url": "https://vision.example.com", "namespaces": ["team-vision"]},
}
CREATING_SECONDS = 8
WORKLOADS = "workloads.kueue.x-k8s.io"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wrong:
    """One manifest that only a cluster can find wrong."""

    name: str
    manifest: Object
    reason: str
    """What the condition must say."""
    names: tuple[str, ...] = ()
    """What the message must name: field and value."""
    place: str = "open"
    """Which namespace: open, small (a quota), strict (a policy), cut-off (a webhook that points nowhere)."""
    kubelet: Callable[[ApiClient, Object], None] | None = None
    """Called once with each pod: what a kubelet does that kwok doesn't."""
    controller: Callable[[ApiClient, Object], None] | None = None
    """Called once with each PyTorchJob: what Kueue does."""


def tell(reason: str, message: str) -> Callable[[ApiClient, Object], None]:
    """The kubelet posts a Warning about a pod."""

    def post(api: ApiClient, pod: Object) -> None:
        metadata, now = pod["metadata"], time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        about = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
        event = {
            "metadata": {"generateName": "kubelet-"},
            "involvedObject": {**about, "namespace": api.namespace},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "kubelet"},
        }
        api.create("events", event)

    return post


def suspend(api: ApiClient, child: Object) -> None:
    """Kueue's webhook does it at creation."""
    api.patch("pytorchjobs", child["metadata"]["name"], {"spec": {"runPolicy": {"suspend": True}}})


def hold_back(api: ApiClient, child: Object) -> None:
    """Kueue suspends it, and its Workload says why."""
    suspend(api, child)
    owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "controller": True}
    reference = {**owner, "name": child["metadata"]["name"], "uid": child["metadata"]["uid"]}
    name = f"pytorchjob-{child['metadata']['name']}"
    metadata = {"name": name, "ownerReferences": [reference]}
    api.create("workloads", {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "Workload", "metadata": metadata})
    told = "couldn't assign flavors to pod set master: insufficient unused quota for nvidia.com/gpu, 4 more needed"
    pending = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": told}
    api.patch("workloads", name, {"status": {"conditions": [pending]}}, status=True)


def waits(reason: str) -> Object:
    """Annotations with which the pods of a job wait for ever."""
    return {"pod": {"annotations": {f"{kind}.testbed/waiting": reason for kind in ("job", "pytorchjob")}}}


EXTRA: Mapping[str, Mapping[str, Any]] = {
    "endpoint-not-in-the-list": {"names": ("spec.storage.endpoint", "minio", "default")},
    "endpoint-of-another-namespace": {"names": ("spec.storage.endpoint", "vision-only")},
    "secret-missing": {
        "names": ("spec.storage.credentialsSecret", "s3-credential"),
        "more": waits("ContainerCreating"),
        "kubelet": tell("FailedMount", 'MountVolume.SetUp failed for volume "s3" : secret "s3-credential" not found'),
    },
    "service-account-missing": {"names": ("spec.storage.serviceAccountName", "trainer")},
    "claim-of-the-cache-missing": {"names": ("spec.cache.claim", "imagess")},
    "claim-of-a-volume-missing": {"names": ("spec.pod.volumes", "coco")},
    "image-not-there": {"names": ("spec.image",), "more": waits("ImagePullBackOff")},
    "image-name-malformed": {"names": ("spec.image",), "more": waits("InvalidImageName")},
    "pull-secret-missing": {"names": ("spec.pod.imagePullSecrets",), "more": waits("ErrImagePull")},
    "no-node-with-that-label": {"names": ("spec.pod.nodeSelector", "4 node(s) didn't match")},
    "more-gpus-than-a-node-has": {"names": ("spec.resources", "Insufficient nvidia.com/gpu")},
    "gpu-resource-nobody-offers": {"names": ("spec.resources", "Insufficient nvidia.com/gpus")},
    "more-memory-than-a-node-has": {"names": ("spec.resources", "Insufficient memory")},
    "quota-exceeded": {"names": ("requests.nvidia.com/gpu=4", "limited: requests.nvidia.com/gpu=2"), "place": "small"},
    "priority-class-missing": {"names": ("PriorityClass", "urgent")},
    "runtime-class-missing": {"names": ("RuntimeClass", "nvidia2")},
    "label-of-a-namespace-policy": {"names": ("spec.pod", "violates PodSecurity"), "place": "strict"},
    "config-map-of-a-volume-missing": {
        "names": ('configmap "settings" not found',),
        "more": waits("ContainerCreating"),
        "kubelet": tell("FailedMount", 'MountVolume.SetUp failed for volume "s" : configmap "settings" not found'),
    },
    "queue-missing": {"names": ("-a1",), "controller": suspend},
    "name-taken": {"names": ("name-taken-a1",)},
}
"""What the table does not say of a case: its world, and what the message must name."""


def cases_of_table() -> list[Wrong]:
    """Those of bad_input/later."""
    found = []
    for text in re.split(r"^---\n", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        header = dict(re.findall(r"^# (\w+): ?(.*)$", text, re.MULTILINE))
        extra = dict(EXTRA.get(header["case"], {}))
        manifest = yaml.safe_load(text)
        more = extra.pop("more", {})
        pod = {**manifest["spec"].get("pod", {}), **more.get("pod", {})}
        manifest["spec"] |= {"pod": pod} if pod else {}
        found.append(Wrong(name=header["case"], manifest=manifest, reason=header["reason"], **extra))
    return found


def other_cases() -> list[Wrong]:
    """Right manifests in a wrong world."""
    smallest = yaml.safe_load(SMALLEST.read_text(encoding="utf-8"))
    waiting = {**smallest, "spec": {**smallest["spec"], **waits("ContainerCreating")}}
    return [
        Wrong(
            name="webhook-nowhere",
            manifest=smallest,
            reason="WebhookUnavailable",
            names=("failed calling webhook", "nowhere.example.com"),
            place="cut-off",
        ),
        Wrong(
            name="kueue-holds-back",
            manifest=smallest,
            reason="Queued",
            names=("insufficient unused quota for nvidia.com/gpu, 4 more needed",),
            controller=hold_back,
        ),
        Wrong(
            name="creating-for-too-long",
            manifest=waiting,
            reason="ContainerCreatingTooLong",
            names=("for too long", "node-"),
        ),
    ]


@dataclass(kw_only=True)
class Ward:
    """All wrong jobs, submitted at `began`."""

    bench: Bench
    operator: OperatorProcess
    apis: dict[str, ApiClient]
    """By place."""
    began: float

    def status(self, case: Wrong) -> Object:
        job = self.apis[case.place].get("semiresjobs", case.name)
        return dict((job or {}).get("status") or {})


@pytest.fixture(scope="module")
def ward(own_fake_node_cluster: FakeNodeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """Submits all of them at once: the minute in which each must be told is the same for all."""
    cluster, folder = own_fake_node_cluster, tmp_path_factory.mktemp("ward")
    cases = [*cases_of_table(), *other_cases()]
    with ExitStack() as stack:
        place = stack.enter_context(bench(cluster, folder))
        spaces = {"open": place.namespace}
        for kind in ("small", "strict", "cut-off"):
            spaces[kind] = stack.enter_context(cluster.namespace(labels={"ward": kind}))
        cluster.apply(_workload_definition(), _quota(spaces["small"]))
        cluster.apply(*_policy(), _webhook())
        stack.callback(_remove_worlds, cluster)
        apis = {kind: stack.enter_context(ApiClient(cluster.kubeconfig, space)) for kind, space in spaces.items()}
        endpoints = folder / "endpoints.yaml"
        endpoints.write_text(yaml.safe_dump(ENDPOINTS))
        given = {"ENDPOINTS_FILE": str(endpoints), "CONTAINER_CREATING_SECONDS": str(CREATING_SECONDS)}
        operator = place.operator(overlay="cluster", **{**SHIPPED_LEASE, **given})
        operator.start()
        operator.wait_until_ready()
        apis["open"].create("pytorchjobs", _somebody_elses("name-taken-a1"))
        nodes = stack.enter_context(Nodes(cases, cluster.kubeconfig, spaces))
        for case in cases:
            metadata = {"name": case.name, "namespace": spaces[case.place]}
            apis[case.place].create("semiresjobs", {**case.manifest, "metadata": metadata})
        yield Ward(bench=place, operator=operator, apis=apis, began=time.monotonic())
        nodes.check()


class Nodes:
    """Does for the cases what kubelets and Kueue do. A context manager."""

    def __init__(self, cases: list[Wrong], kubeconfig: Path, spaces: Mapping[str, str]) -> None:
        self._cases = [case for case in cases if case.kubelet or case.controller]
        self._apis = {kind: ApiClient(kubeconfig, space) for kind, space in spaces.items()}
        self._done: set[str] = set()
        self._over = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Nodes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(20)
        for api in self._apis.values():
            api.close()

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while not self._over.wait(0.2):
            try:
                for case in self._cases:
                    self._serve(case)
            except Refused as refused:
                if refused.code not in (404, 409):
                    self._error = refused
                    return

    def _serve(self, case: Wrong) -> None:
        api = self._apis[case.place]
        for plural, do in (("pods", case.kubelet), ("pytorchjobs", case.controller)):
            if do is None:
                continue
            for one in api.list(plural, **{"semires.dev/job": case.name}):
                if one["metadata"]["uid"] not in self._done:
                    self._done.add(one["metadata"]["uid"])
                    do(api, one)


def _quota(namespace: str) -> Object:
    metadata = {"name": "gpus", "namespace": namespace}
    hard = {"requests.nvidia.com/gpu": "2"}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}}


def _policy() -> tuple[Object, Object]:
    """Refuses all pods of a namespace in the words of Pod Security: ours satisfy all that it can ask for."""
    group = "admissionregistration.k8s.io/v1"
    everything = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    rule = {"expression": "false", "message": 'violates PodSecurity "stricter:latest": seccompProfile'}
    spec = {"matchConstraints": {"resourceRules": [everything]}, "validations": [rule]}
    selector = {"namespaceSelector": {"matchLabels": {"ward": "strict"}}}
    binding = {"policyName": "stricter", "validationActions": ["Deny"], "matchResources": selector}
    return (
        {"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "stricter"}, "spec": spec},
        {
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "stricter"},
            "spec": binding,
        },
    )


def _webhook() -> Object:
    """Of a training-operator that is not there."""
    rule = {
        "apiGroups": ["kubeflow.org"],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pytorchjobs"],
    }
    webhook = {
        "name": "nowhere.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/validate"},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"ward": "cut-off"}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
        "timeoutSeconds": 2,
    }
    group = "admissionregistration.k8s.io/v1"
    metadata = {"name": "nowhere"}
    return {"apiVersion": group, "kind": "ValidatingWebhookConfiguration", "metadata": metadata, "webhooks": [webhook]}


def _workload_definition() -> Object:
    """The least that Kueue's kind is."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1beta1", "served": True, "storage": True, "subresources": {"status": {}}}
    spec = {
        "group": "kueue.x-k8s.io",
        "scope": "Namespaced",
        "names": {"plural": "workloads", "singular": "workload", "kind": "Workload"},
        "versions": [{**version, "schema": {"openAPIV3Schema": schema}}],
    }
    kind = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    return {**kind, "metadata": {"name": WORKLOADS}, "spec": spec}


def _remove_worlds(cluster: FakeNodeCluster) -> None:
    for kind, name in (
        ("validatingadmissionpolicybinding", "stricter"),
        ("validatingadmissionpolicy", "stricter"),
        ("validatingwebhookconfiguration", "nowhere"),
        ("crd", WORKLOADS),
    ):
        cluster.kubectl("delete", kind, name)


def _somebody_elses(name: str) -> Object:
    container = {"name": "pytorch", "image": "x"}
    replica = {"replicas": 1, "restartPolicy": "Never", "template": {"spec": {"containers": [container]}}}
    metadata = {"name": name}
    spec = {"runPolicy": {"suspend": True}, "pytorchReplicaSpecs": {"Master": replica}}
    return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": metadata, "spec": spec}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each wrong job."""
    if "wrong" in metafunc.fixturenames:
        cases = [*cases_of_table(), *other_cases()]
        metafunc.parametrize("wrong", [pytest.param(case, id=case.name) for case in cases])
