"""The world of these tests: a real node with our operator as a pod, a restricted namespace, a bucket with inputs."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from e2e import inputs, stories
from e2e.world import World
from testbed import demo_images, demo_install, requirements
from testbed.cluster import RESTRICTED, Object
from testbed.demo_images import Image
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
    requirements.check("real")
    folder, began = tmp_path_factory.mktemp("e2e"), time.monotonic()
    images = demo_images.operator_image(say), demo_images.trainer_image(say)
    built = time.monotonic()
    with ExitStack() as stack:
        cluster = stack.enter_context(RealCluster(say=say))
        up = time.monotonic()
        stack.enter_context(installed(cluster, folder / "install", *images))
        seconds = {"images": built - began, "cluster": up - built, "operator installed": time.monotonic() - up}
        namespace = stack.enter_context(cluster.namespace(labels=RESTRICTED))
        bucket = stack.enter_context(filled_bucket(cluster, f"e2e-{namespace}"))
        sam = inputs.sha256_of(bucket / "models" / inputs.SAM_FILE)
        world = World(cluster=cluster, namespace=namespace, bucket=bucket.name, folder=folder, sam_sha256=sam)
        world.seconds |= seconds
        world.make_secret(inputs.SECRET, ACCESS, SECRET)
        pytestconfig.stash[WORLD] = world
        yield world
        say("; ".join(f"{what}: {seconds:.0f} s" for what, seconds in world.seconds.items()))


# -- Stories, told once and in this order: each begins when the one before it is over.


@pytest.fixture(scope="session")
def wrong_key(world: World) -> str:
    """The name of a job that is denied."""
    return stories.apply_with_wrong_key(world)


@pytest.fixture(scope="session")
def impostor(world: World) -> str:
    """The name of a job whose pod lies."""
    return stories.apply_impostor(world)


@pytest.fixture(scope="session")
def chain(world: World, say: Say, wrong_key: str, impostor: str) -> Object:
    """A job that nobody disturbs; two others fail and lie beside it."""
    say("a job of four ranks, from kubectl apply to its results")
    return stories.train(world)


@pytest.fixture(scope="session")
def denied(world: World, wrong_key: str) -> Object:
    """The job that was denied, at its end."""
    return world.wait_for_phase(wrong_key, "Failed")


@pytest.fixture(scope="session")
def believed(world: World, impostor: str) -> stories.Believed:
    """What came of the lies."""
    return stories.hear_all_lies(world, impostor)


@pytest.fixture(scope="session")
def survived(world: World, say: Say, chain: Object) -> stories.Survived:
    """A job that was killed and suspended, with its operator."""
    say("the same job; its pod is killed, it is suspended, and the operator dies each time")
    return stories.survive(world)


@pytest.fixture(scope="session")
def pair(world: World, say: Say, survived: stories.Survived) -> stories.Pair:
    """Two jobs at once."""
    say("two jobs of two ranks, one store of masks")
    return stories.train_two(world)


@contextmanager
def installed(cluster: RealCluster, folder: Path, operator: Image, trainer: Image) -> Iterator[None]:
    """Our operator; at the end it is removed with its definition, as others may go on with the cluster."""
    for image in (operator, trainer):
        cluster.load_image(image.archive)
    overlay = demo_install.write_overlay(folder, operator=operator, trainer=trainer, s3_url=cluster.S3_URL)
    demo_install.install(cluster, overlay)
    try:
        yield
    finally:
        cluster.kubectl("delete", "-k", str(overlay), "--ignore-not-found", "--wait=false")


@contextmanager
def filled_bucket(cluster: RealCluster, name: str) -> Iterator[Path]:
    """A bucket with inputs, as long as it is needed."""
    bucket = cluster.make_bucket(name)
    inputs.write_inputs(bucket)
    try:
        yield bucket
    finally:
        shutil.rmtree(bucket, ignore_errors=True)


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
