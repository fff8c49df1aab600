"""The CRD on a real API server, and what that says about manifests with one change each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from testbed.semiresjobs import SPECS, Document, changed, manifest
from testbed.verdicts import ApiServer, api_with_crd


@pytest.fixture(scope="session")
def api(api_cluster: Any) -> Iterator[ApiServer]:
    """The API server as its administrator, knowing SemiRESJob."""
    with api_with_crd(api_cluster.kubeconfig) as server:
        yield server


@pytest.fixture(scope="session")
def stored(api: ApiServer) -> dict[str, Document]:
    """One job of each of the example specs, running and suspended, as the API server gives them back."""
    documents = [manifest(spec, name) for name, spec in SPECS.items()]
    documents += [manifest(changed(spec, ("suspend",), True), f"{name}-suspended") for name, spec in SPECS.items()]
    return {document["metadata"]["name"]: api.keep(document) for document in documents}
