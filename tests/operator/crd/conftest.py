"""The CRD on a real API server, and what that says about manifests with one change each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from testbed.semiresjobs import SPECS, Document, changed, manifest
from testbed.verdicts import ApiServer, api_with_crd

from semires_operator.crd import build_crd


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


@pytest.fixture
def whole_crd(api: ApiServer) -> Iterator[None]:
    """Puts the CRD back that a test took rules from."""
    yield
    api.install(build_crd())
