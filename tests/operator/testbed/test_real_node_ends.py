"""The end of a real node: asked for, or after its owner was killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed import leftovers, runs
from testbed.processes import Processes
from testbed.real_cluster import InUseError, RealCluster, end_real_cluster

pytestmark = pytest.mark.long

START = "import os, signal\nfrom testbed.real_cluster import RealCluster\nRealCluster().__enter__()\n"
KILLED = "os.kill(os.getpid(), signal.SIGKILL)\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Of the cluster, which nobody else may use meanwhile."""
    try:
        end_real_cluster(lambda _: None)
    except InUseError as error:
        pytest.skip(str(error))
    yield runs.runs_folder() / RealCluster.DEPTH
    with contextlib.suppress(InUseError):  # others have begun to use it
        end_real_cluster(lambda _: None)


def start(script: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(Path(runs.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", script], env=environment).returncode


def test_nothing_is_left_once_it_was_ended(folder: Path) -> None:
    assert start(f"{START}{KILLED}") == -9
    before = leftovers.what_is_left(folder)

    end_real_cluster(lambda _: None)

    assert before
    assert leftovers.what_is_left(folder) == []
    assert not folder.exists()


def test_what_a_killed_owner_left_is_replaced_at_the_next_start(folder: Path) -> None:
    start(f"{START}{KILLED}")
    old = Processes(folder).identity("kubelet")

    with RealCluster() as cluster:
        assert not old.alive
        assert cluster.running

    assert leftovers.what_is_left(folder) == []


def test_a_cluster_in_use_is_not_ended(folder: Path) -> None:
    with RealCluster() as cluster:
        with pytest.raises(InUseError, match="tests use the cluster"):
            end_real_cluster(lambda _: None)

        assert cluster.running


def test_two_users_share_it_and_the_last_one_ends_it(folder: Path) -> None:
    with RealCluster() as one:
        kubelet = one.processes.identity("kubelet")
        with RealCluster() as other:
            assert other.processes.identity("kubelet") == kubelet

        assert one.running

    assert not kubelet.alive
