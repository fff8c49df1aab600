"""Clusters for the tests of the operator, in three depths; see docs/testbed.md.

With $KUBECONFIG the fixtures give that cluster instead; tests that need to own it are skipped then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from testbed.api_cluster import ApiCluster
from testbed.cluster import RESTRICTED, Cluster, OtherCluster
from testbed.fake_nodes import FakeNodeCluster
from testbed.real_cluster import RealCluster

Say = Callable[[str], None]
Owned = TypeVar("Owned", bound=ApiCluster)


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Say:
    """Tell the one who waits for a build what it is about, past pytest's capturing."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def tell(text: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stderr.write(f"{text}\n")

    return tell


@pytest.fixture(scope="session")
def api_cluster(say: Say, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server with the controllers of Kubernetes, and no nodes."""
    yield from _cluster(lambda: ApiCluster(say=say), tmp_path_factory)


@pytest.fixture(scope="session")
def fake_node_cluster(say: Say, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four pretended nodes of four GPUs, and the training-operator; testbed.pretend_pods steers the pods."""
    yield from _cluster(lambda: FakeNodeCluster(say=say), tmp_path_factory)


@pytest.fixture(scope="session")
def real_cluster(say: Say, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real node with four pretend GPUs, S3 and Prometheus; shared by all test processes of this machine."""
    yield from _cluster(lambda: RealCluster(say=say), tmp_path_factory)


def _cluster(make: Callable[[], ApiCluster], folders: pytest.TempPathFactory) -> Iterator[Cluster]:
    if os.environ.get("KUBECONFIG"):
        yield OtherCluster(folders.mktemp("cluster"))
        return
    with make() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def own_api_cluster(api_cluster: Cluster) -> ApiCluster:
    """For tests that stop and start its parts."""
    return _own(api_cluster, ApiCluster)


@pytest.fixture(scope="session")
def own_fake_node_cluster(fake_node_cluster: Cluster) -> FakeNodeCluster:
    """For tests that know of its pretended pods."""
    return _own(fake_node_cluster, FakeNodeCluster)


@pytest.fixture(scope="session")
def own_real_cluster(real_cluster: Cluster) -> RealCluster:
    """For tests that need its S3, its Prometheus or its images."""
    return _own(real_cluster, RealCluster)


def _own(cluster: Cluster, kind: type[Owned]) -> Owned:
    if not isinstance(cluster, kind):
        pytest.skip("needs a cluster of the testbed: unset KUBECONFIG")
    return cluster


@pytest.fixture
def api_namespace(api_cluster: Cluster) -> Iterator[str]:
    """A fresh namespace of `api_cluster`."""
    with api_cluster.namespace() as name:
        yield name


@pytest.fixture
def fake_node_namespace(fake_node_cluster: Cluster) -> Iterator[str]:
    """A fresh namespace of `fake_node_cluster`."""
    with fake_node_cluster.namespace() as name:
        yield name


@pytest.fixture
def real_namespace(real_cluster: Cluster) -> Iterator[str]:
    """A fresh namespace of `real_cluster` that enforces the restricted Pod Security Standard."""
    with real_cluster.namespace(labels=RESTRICTED) as name:
        yield name


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opens."""
    with ExitStack() as opened:
        yield opened
