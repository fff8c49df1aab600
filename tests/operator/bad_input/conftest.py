"""The CRD on a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from testbed.verdicts import ApiServer, api_with_crd


@pytest.fixture(scope="session")
def api(api_cluster: Any) -> Iterator[ApiServer]:
    """The API server as its administrator, knowing SemiRESJob."""
    with api_with_crd(api_cluster.kubeconfig) as server:
        yield server
