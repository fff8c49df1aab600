"""The world of these tests: a real node with our operator as a pod, a restricted namespace, a bucket with inputs."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from e2e import inputs
from e2e.world import World
from testbed import demo_images, demo_install, requirements
from testbed.cluster import RESTRICTED
from testbed.real_cluster import RealCluster
from testbed.s3_server import ACCESS, SECRET

Say = Callable[[str], None]
WORLD = pytest.StashKey[World]()


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Say:
    """Tell the one who waits what it is about, past pytest's capturing."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    began = time.monotonic()

    def tell(text: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stderr.write(f"[{time.monotonic() - began:5.0f} s] {text}\n")

    return tell


@pytest.fixture(scope="session")
def world(pytestconfig: pytest.Config, say: Say, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything that is there before the first job."""
    if os.environ.get("KUBECONFIG"):
        pytest.skip("needs the S3 server, Prometheus and images of the testbed: unset KUBECONFIG")
    if os.geteuid() != 0 or requirements.install_line("real"):
        requirements.check("real")
    began = time.monotonic()
    operator, trainer = demo_images.operator_image(say), demo_images.trainer_image(say)
    built = time.monotonic()
    with ExitStack() as stack:
        cluster = stack.enter_context(RealCluster(say=say))
        up = time.monotonic()
        for image in (operator, trainer):
            cluster.load_image(image.archive)
        folder = tmp_path_factory.mktemp("e2e")
        overlay = demo_install.write_overlay(
            folder / "install", operator=operator, trainer=trainer, s3_url=cluster.S3_URL
        )
        stack.callback(uninstall, cluster, overlay)
        demo_install.install(cluster, overlay)
        installed = time.monotonic()
        namespace = stack.enter_context(cluster.namespace(labels=RESTRICTED))
        bucket = cluster.make_bucket(f"e2e-{namespace}")
        stack.callback(shutil.rmtree, bucket, ignore_errors=True)
        inputs.write_inputs(bucket)
        world = World(
            cluster=cluster,
            namespace=namespace,
            bucket=bucket.name,
            folder=folder,
            sam_sha256=inputs.sha256_of(bucket / "models" / inputs.SAM_FILE),
        )
        pytestconfig.stash[WORLD] = world
        world.make_secret(inputs.SECRET, ACCESS, SECRET)
        world.seconds |= {"images": built - began, "cluster": up - built, "operator installed": installed - up}
        yield world
        say("; ".join(f"{what}: {seconds:.0f} s" for what, seconds in world.seconds.items()))


def uninstall(cluster: RealCluster, overlay: Path) -> None:
    """Remove the operator and its definition: others may go on with the cluster."""
    cluster.kubectl("delete", "-k", str(overlay), "--ignore-not-found", "--wait=false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what an engineer would ask for to the first failure; the state of later ones is much the same."""
    report = yield
    world = item.config.stash.get(WORLD, None)
    if report.failed and world is not None:
        report.sections.append(("the cluster", world.report()))
        del item.config.stash[WORLD]
    return report
