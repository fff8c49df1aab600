"""One cluster with our operator, one namespace of a user, one bucket: what all tests of this folder share."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import yaml
from e2e import inputs
from testbed import demo_install, node_config, programs
from testbed.cluster import KubectlError, Object
from testbed.real_cluster import RealCluster
from testbed.s3_server import ACCESS, REGION, SECRET
from testbed.waiting import wait_until

from semires_trainer.config import parse_job, resolve
from semires_trainer.proposals.build import build_key
from semires_trainer.proposals.store import ProposalStore

REPORT_LINES = 25


class JobFailed(AssertionError):
    """A job ended in another way than was waited for; the message is its status."""


@dataclass(kw_only=True)
class World:
    """The cluster, as a user of `namespace` and as its administrator."""

    cluster: RealCluster
    namespace: str
    bucket: str
    folder: Path
    """For manifests."""
    sam_sha256: str
    seconds: dict[str, float] = field(default_factory=dict)
    """What took how long."""

    # As a user

    def kubectl(self, *words: str) -> str:
        """What kubectl prints in the user's namespace."""
        return self.cluster.kubectl("-n", self.namespace, *words)

    def apply(self, name: str, **spec: Any) -> float:
        """`kubectl apply -f` of a manifest; returns when, by the monotonic clock."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(inputs.manifest(name, self.bucket, self.sam_sha256, spec), sort_keys=False))
        self.kubectl("apply", "-f", str(path))
        return time.monotonic()

    def make_secret(self, name: str, access: str, secret: str) -> None:
        """Credentials, as a user makes them."""
        keys = [f"--from-literal=AWS_ACCESS_KEY_ID={access}", f"--from-literal=AWS_SECRET_ACCESS_KEY={secret}"]
        self.kubectl("create", "secret", "generic", name, *keys)

    def set(self, name: str, **spec: Any) -> None:
        """Change fields of a job's spec."""
        self.kubectl("patch", "srj", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def job(self, name: str) -> Object:
        """The job as it is now."""
        found = self.cluster.get("srj", name, "-n", self.namespace)
        assert found is not None, f"there is no SemiRESJob {name}"
        return dict(found)

    def pods(self, name: str, role: str = "training") -> list[Object]:
        """The pods of a job."""
        return self.cluster.items("pods", "-n", self.namespace, "-l", f"semires.dev/job={name},semires.dev/role={role}")

    def wait(self, name: str, what: str, until: Callable[[Object], object], *, seconds: float = 600) -> Object:
        """The job, once `until` is true of it; JobFailed as soon as it can't become so any more."""

        def look() -> Object | None:
            found = self.job(name)
            if until(found):
                return found
            if phase_of(found) in inputs.ENDED:
                raise JobFailed(
                    f"{name} ended before: {what}. {found['status']['phase']}: {found['status']['message']}"
                )
            return None

        def seen() -> str:
            status = self.job(name).get("status", {})
            return json.dumps({key: status.get(key) for key in ("phase", "message", "attempt", "progress")})

        return wait_until(f"{name}: {what}", look, seconds=seconds, every=0.2, seen=seen)

    def wait_for_phase(self, name: str, *phases: str, seconds: float = 600) -> Object:
        """The job, once it is in one of the phases."""
        return self.wait(name, f"is {' or '.join(phases)}", lambda job: phase_of(job) in phases, seconds=seconds)

    def wait_for_checkpoint(self, name: str, *, stage: str, after: int = 0, seconds: float = 600) -> Object:
        """The newest entry of its ledger, once that is of `stage` and holds more than `after` steps of the run."""

        def look() -> Object | None:
            entries = [one for one in self.ledger(name) if one["stage"] == stage and one["number"] > after]
            if not entries and phase_of(self.job(name)) in inputs.ENDED:
                raise JobFailed(f"{name} ended without a checkpoint of {stage}: {self.job(name)['status']['message']}")
            return entries[-1] if entries else None

        return wait_until(f"{name} has a checkpoint of {stage} after step {after}", look, seconds=seconds, every=0.2)

    # As a node, and as the administrator

    def kill_container(self, pod: Object) -> None:
        """SIGKILL to the process of a pod's container: what a node does that runs out of memory."""
        self._containerd("tasks", "kill", "--signal", "SIGKILL", _container_of(pod))

    def memory_of(self, pod: Object) -> int:
        """Bytes of resident memory of the process of a pod's container, with what it shares with others."""
        rows = (line.split() for line in self._containerd("tasks", "list").splitlines())
        process = {row[0]: row[1] for row in rows}[_container_of(pod)]
        status = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS:"))

    def _containerd(self, *words: str) -> str:
        address = ["--address", str(node_config.socket(self.cluster.folder)), "--namespace", "k8s.io"]
        command = [str(programs.CTR.path), *address, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def leader(self) -> str:
        """The pod of the operator that holds the Lease."""
        lease = self.cluster.get("lease", demo_install.NAME, "-n", demo_install.NAMESPACE)
        holder = (lease or {"spec": {}})["spec"].get("holderIdentity") or ""
        return str(holder).rpartition("_")[0]

    def kill_operator(self) -> str:
        """Remove the leading pod without a word; returns its name."""
        leader = self.leader()
        self.cluster.kubectl("-n", demo_install.NAMESPACE, "delete", "pod", leader, "--grace-period=0", "--force")
        return leader

    def operator_pods(self) -> list[Object]:
        """All replicas."""
        return self.cluster.items("pods", "-n", demo_install.NAMESPACE)

    def operator_writes(self) -> list[Object]:
        """Audited writes of the operator in the user's namespace, without those of status and of events."""
        written = [event for event in self.cluster.audited(demo_install.ACCOUNT) if self._is_ours(event)]
        return [event for event in written if event["responseStatus"].get("code", 0) < 300]

    def _is_ours(self, event: Object) -> bool:
        about = event.get("objectRef", {})
        is_noise = about.get("subresource") == "status" or about.get("resource") == "events"
        return about.get("namespace") == self.namespace and not is_noise

    def query(self, expression: str) -> list[Object]:
        """What Prometheus answers now."""
        url = f"{self.cluster.PROMETHEUS_URL}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return list(json.load(answer)["data"]["result"])

    # As somebody who reads the bucket

    def s3(self) -> Any:
        """boto3, as others use it."""
        keys = {"aws_access_key_id": ACCESS, "aws_secret_access_key": SECRET}
        return boto3.client("s3", endpoint_url=self.cluster.S3_URL, region_name=REGION, **keys)

    def read(self, uri: str) -> bytes:
        """An object's content."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        client = self.s3()
        try:
            return bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())
        finally:
            client.close()

    def output(self, name: str) -> str:
        """Where a job writes."""
        return f"s3://{self.bucket}/results/{name}"

    def path(self, uri: str) -> Path:
        """The server's own file: quick to ask again and again."""
        return self.cluster.folder / "s3" / uri.removeprefix("s3://")

    def ledger(self, name: str) -> list[Object]:
        """The verified checkpoints of a job, newest last."""
        path = self.path(f"{self.output(name)}/checkpoints.json")
        return list(json.loads(path.read_bytes())["checkpoints"]) if path.exists() else []

    def log(self, name: str, attempt: int) -> list[Object]:
        """What an attempt has told, from the bucket."""
        lines = self.path(f"{self.output(name)}/log-a{attempt}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def messages(self, name: str, attempt: int) -> list[str]:
        """What an attempt has told, in words."""
        return [str(record.get("message", "")) for record in self.log(name, attempt)]

    def store(self, name: str, uri: str) -> ProposalStore:
        """A store of masks of a job, from the server's own files."""
        manifest = inputs.manifest(name, self.bucket, self.sam_sha256, {})
        return ProposalStore(self.path(uri), build_key(resolve(parse_job(manifest)).proposals))

    def picture_digests(self) -> list[str]:
        """Names of the records of all training images."""
        pictures = sorted(self.path(f"s3://{self.bucket}/images").glob("train*"))
        return [sha256(path.read_bytes()) for path in pictures]

    # When something is wrong

    def report(self) -> str:
        """What an engineer would ask for first."""
        everything = ("get", "srj,pytorchjobs,jobs,pods", "-o", "wide")
        parts = [self._told(everything), self._told(("get", "events", "--sort-by=.lastTimestamp"))]
        for job in self.cluster.items("srj", "-n", self.namespace):
            parts.append(self._told(("describe", "srj", job["metadata"]["name"])))
        for pod in self.cluster.items("pods", "-n", self.namespace):
            parts.append(self._told(("logs", pod["metadata"]["name"], f"--tail={REPORT_LINES}")))
        system = demo_install.NAMESPACE
        parts.append(self._told(("get", "pods", "-o", "wide"), namespace=system))
        for pod in self.cluster.items("pods", "-n", system):
            parts.append(self._told(("logs", pod["metadata"]["name"], f"--tail={REPORT_LINES}"), namespace=system))
        return "\n".join(parts)

    def _told(self, words: tuple[str, ...], *, namespace: str = "") -> str:
        where = namespace or self.namespace
        try:
            told = self.cluster.kubectl("-n", where, *words)
        except KubectlError as error:
            told = error.stderr
        return f"$ kubectl -n {where} {' '.join(words)}\n{told}"


def _container_of(pod: Object) -> str:
    return str(pod["status"]["containerStatuses"][0]["containerID"]).removeprefix("containerd://")


def sha256(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def moment(text: str) -> datetime:
    """A time as the API writes it."""
    return datetime.fromisoformat(text)


def phase_of(job: Object) -> str:
    """Its phase; empty before the operator has seen it."""
    return str(job.get("status", {}).get("phase", ""))


def condition_of(job: Object, kind: str) -> Object:
    """A condition of a job; empty if it has none of this kind."""
    conditions = job.get("status", {}).get("conditions", ())
    return next((dict(one) for one in conditions if one["type"] == kind), {})
