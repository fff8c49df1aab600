"""`make cluster-demo`: from nothing to a trained SemiRESJob on a real cluster on this machine.

Each command is shown as one would type it, and is really run. The cluster stays: see what is told at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from testbed import demo_images, node_config, programs, requirements
from testbed.cluster import REPOSITORY
from testbed.demo_images import Image
from testbed.real_cluster import RealCluster
from testbed.s3_server import ACCESS, SECRET

from semires_trainer.data.synthetic import SyntheticConfig, write_synthetic

BUCKET, NAMESPACE, JOB = "demo", "demo", "first"
IMAGES, EVALUATION_IMAGES, SIDE = 80, 12, 96
LONGEST_SECONDS = 600
OPERATOR, EXAMPLES = "semires-system", "examples/cluster"


class Demo:
    """The steps, in order."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._environment = dict(os.environ)

    def say(self, text: str) -> None:
        """A line to the one who watches."""
        click.secho(f"[{time.monotonic() - self._began:4.0f} s] {text}", fg="cyan", err=True)

    def run(self) -> None:
        """All of it. DemoFailed or RequirementError, with what to do."""
        cluster = self.start_cluster()
        self.load_images(cluster)
        self.install()
        self.fill_bucket(cluster)
        self.train()
        self.tell(cluster)

    def start_cluster(self) -> RealCluster:
        """Kubernetes, with a node of four pretend GPUs, S3 and Prometheus."""
        self.say(
            "A Kubernetes cluster on this machine: control plane, a node with four pretend GPUs, training-operator"
        )
        cluster = RealCluster(say=self.say)
        cluster.keep()
        self._environment |= {
            "KUBECONFIG": str(cluster.kubeconfig),
            "PATH": f"{programs.KUBECTL.path.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        self.kubectl("get", "nodes")
        return cluster

    def load_images(self, cluster: RealCluster) -> None:
        """Operator and trainer, where a registry would be asked elsewhere."""
        self.say("The images of operator and trainer (the node brings torch, as it would bring a GPU's driver)")
        for name, image in (("operator", demo_images.operator_image), ("trainer", demo_images.trainer_image)):
            self._load(cluster, image(self.say), f"localhost/semires-{name}:demo")

    def _load(self, cluster: RealCluster, image: Image, tag: str) -> None:
        cluster.load_image(image.archive)
        address = ["--address", str(node_config.socket(cluster.folder)), "--namespace", "k8s.io"]
        command = [str(programs.CTR.path), *address, "images", "tag", "--force", image.tag, tag]
        subprocess.run(command, check=True, capture_output=True)

    def install(self) -> None:
        """The operator, as an administrator installs it."""
        self.say("The operator: its definition of SemiRESJob, its rights, its Deployment")
        was_there = self._found("-n", OPERATOR, "deployment/semires-operator")
        self.kubectl("apply", "--server-side", "-k", f"{EXAMPLES}/operator")
        if was_there:  # it may run an older image of the same name
            self.kubectl("-n", OPERATOR, "rollout", "restart", "deployment/semires-operator")
        self.kubectl("-n", OPERATOR, "rollout", "status", "deployment/semires-operator", "--timeout=120s")

    def fill_bucket(self, cluster: RealCluster) -> None:
        """Inputs where the job expects them, and nothing of an earlier demo."""
        self.say(f"{IMAGES} pictures with sentences, into the bucket s3://{BUCKET}")
        if self._found("-n", NAMESPACE, f"srj/{JOB}"):
            self.kubectl("-n", NAMESPACE, "delete", "srj", JOB)
        shutil.rmtree(cluster.folder / "s3" / BUCKET, ignore_errors=True)
        write_bucket(cluster.make_bucket(BUCKET))

    def train(self) -> None:
        """The job, as a user makes it."""
        self.say("A namespace with restricted Pod Security, credentials, and the job")
        self.kubectl("apply", "-f", f"{EXAMPLES}/namespace.yaml")
        if not self._found("-n", NAMESPACE, "secret/s3-credentials"):
            keys = [f"--from-literal=AWS_ACCESS_KEY_ID={ACCESS}", f"--from-literal=AWS_SECRET_ACCESS_KEY={SECRET}"]
            self.kubectl("-n", NAMESPACE, "create", "secret", "generic", "s3-credentials", *keys)
        self.kubectl("-n", NAMESPACE, "apply", "-f", f"{EXAMPLES}/semiresjob.yaml")
        self.say("Checked, then trained by four ranks of one pod; columns as they change:")
        watch = self._start("-n", NAMESPACE, "get", "srj", JOB, "--watch")
        try:
            self.kubectl(
                "-n", NAMESPACE, "wait", f"srj/{JOB}", "--for=condition=Finished", f"--timeout={LONGEST_SECONDS}s"
            )
        finally:
            watch.terminate()
            watch.wait()

    def tell(self, cluster: RealCluster) -> None:
        """What came of it."""
        self.say("What came of it")
        self.kubectl("-n", NAMESPACE, "get", "srj")
        job = json.loads(self._output("-n", NAMESPACE, "get", "srj", JOB, "-o", "json"))
        if job["status"]["phase"] != "Succeeded":
            self.kubectl("-n", NAMESPACE, "describe", "srj", JOB)
            raise click.ClickException(f"the job ended as {job['status']['phase']}: {job['status']['message']}")
        last = job["status"]["lastCheckpoint"]
        verify(cluster.folder / "s3", last["uri"], last["sha256"])
        self.say(f"Done in {time.monotonic() - self._began:.0f} s.")
        click.echo(
            f"\nThe last checkpoint: {last['uri']}\n"
            f"  its manifest.json has the sha256 that the status names, and each file has the one that stands there\n"
            f"The model, results and pictures: {job['spec']['output']}\n"
            f"  on this machine: {cluster.folder / 's3' / BUCKET / 'results' / JOB}\n\n"
            f"Go on:\n"
            f"  export KUBECONFIG={cluster.kubeconfig} PATH={programs.KUBECTL.path.parent}:$PATH\n"
            f"  kubectl -n {NAMESPACE} describe srj {JOB}\n"
            f"  kubectl explain srj.spec.training\n"
            f"  Prometheus: {cluster.PROMETHEUS_URL}   S3: {cluster.S3_URL} (keys {ACCESS} and {SECRET})\n"
            f"End it:\n"
            f"  make cluster-down"
        )

    # kubectl, as the reader would type it

    def kubectl(self, *words: str) -> None:
        """Show a command, and run it."""
        self._show(words)
        result = subprocess.run(["kubectl", *words], cwd=REPOSITORY, env=self._environment)
        if result.returncode:
            raise click.ClickException(f"kubectl {words[0]} failed; look with: kubectl get events -A")

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        self._show(words)
        return subprocess.Popen(["kubectl", *words], cwd=REPOSITORY, env=self._environment)

    def _show(self, words: tuple[str, ...]) -> None:
        click.secho(f"$ kubectl {' '.join(words)}", bold=True)
        sys.stdout.flush()

    def _output(self, *words: str) -> str:
        result = subprocess.run(["kubectl", *words], env=self._environment, capture_output=True, text=True)
        return result.stdout if result.returncode == 0 else ""

    def _found(self, *words: str) -> bool:
        return bool(self._output("get", "--ignore-not-found", "-o", "name", *words))


def write_bucket(bucket: Path) -> None:
    """The inputs: refer/, images/, vocab.txt."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_synthetic(data, SyntheticConfig(images=IMAGES, evaluation_images=EVALUATION_IMAGES, size=SIDE))
        (bucket / "refer" / "refcoco").mkdir(parents=True)
        for name in ("refs(unc).p", "instances.json"):
            shutil.copyfile(data / name, bucket / "refer" / "refcoco" / name)
        shutil.copyfile(data / "vocab.txt", bucket / "vocab.txt")
        shutil.copytree(data / "images", bucket / "images")


def verify(buckets: Path, uri: str, sha256: str) -> None:
    """Each file of a checkpoint is the one that was trained; ClickException if not."""
    folder = buckets / uri.removeprefix("s3://")
    expected = {"manifest.json": sha256}
    files = json.loads((folder / "manifest.json").read_text())
    expected |= {name: told["sha256"] for name, told in files.items()}
    for name, digest in expected.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise click.ClickException(f"{uri}/{name} has another sha256 than {digest}")


@click.command()
def main() -> None:
    """Train a SemiRESJob on a Kubernetes cluster on this machine; a first time takes 20 minutes, then four."""
    try:
        Demo().run()
    except requirements.RequirementError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="make cluster-demo")
