"""The CRD on a real API server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from testbed.verdicts import ApiServer, api_with_crd


@pytest.fixture(scope="session")
def api(api_cluster: Any) -> Iterator[ApiServer]:
    """The API server as its administrator, knowing SemiRESJob."""
    with api_with_crd(api_cluster.kubeconfig) as server:
        yield server
