"""The operator as a program on a real API server, and what goes wrong around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.api_cluster import ApiCluster
from testbed.bench import Bench, bench


@pytest.fixture
def place(own_api_cluster: ApiCluster, tmp_path: Path) -> Iterator[Bench]:
    """A fresh namespace for an operator and its job."""
    with bench(own_api_cluster, tmp_path) as made:
        yield made
