"""Requests to an API server over one connection: kubectl takes a tenth of a second for each."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from testbed.cluster import Object

MERGE_PATCH = "application/merge-patch+json"
GROUPS: Mapping[str, str] = {
    "semiresjobs": "apis/semires.dev/v1alpha1",
    "pytorchjobs": "apis/kubeflow.org/v1",
    "jobs": "apis/batch/v1",
    "pods": "api/v1",
    "events": "api/v1",
    "leases": "apis/coordination.k8s.io/v1",
    "workloads": "apis/kueue.x-k8s.io/v1beta1",
}
"""Where a kind is served, by its plural name."""


class Refused(RuntimeError):
    """The API server did not do it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class ApiClient:
    """Requests in one namespace, with the rights of a kubeconfig of the testbed. For one thread. A context manager."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        content = json.loads(kubeconfig.read_text())
        cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
        self.namespace = namespace
        self._address = urlsplit(cluster["server"]).netloc
        self._trust = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._headers = {"Authorization": f"Bearer {user['token']}"}
        self._connection: http.client.HTTPSConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, plural: str, name: str) -> Object | None:
        """An object; None if there is none."""
        try:
            return self._request("GET", self._path(plural, name))
        except Refused as refused:
            if refused.code == 404:
                return None
            raise

    def list(self, plural: str, **labels: str) -> list[Object]:
        """The objects with these labels."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        path = self._path(plural) + (f"?{urlencode({'labelSelector': selector})}" if selector else "")
        return list(self._request("GET", path).get("items") or [])

    def create(self, plural: str, body: Object) -> Object:
        """A new object."""
        return self._request("POST", self._path(plural), body)

    def patch(self, plural: str, name: str, patch: Object, *, status: bool = False) -> Object:
        """A merge patch of an object, or of its status."""
        return self._request("PATCH", self._path(plural, name, "status" if status else ""), patch)

    def delete(self, plural: str, name: str, **options: Any) -> None:
        """Delete it, if it is there."""
        try:
            self._request("DELETE", self._path(plural, name), {"propagationPolicy": "Background", **options})
        except Refused as refused:
            if refused.code != 404:
                raise

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _path(self, plural: str, name: str = "", subresource: str = "") -> str:
        words = (GROUPS[plural], "namespaces", self.namespace, plural, name, subresource)
        return "/" + "/".join(word for word in words if word)

    def _request(self, method: str, path: str, body: Object | None = None) -> Object:
        kind = MERGE_PATCH if method == "PATCH" else "application/json"
        text = None if body is None else json.dumps(body)
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(self._address, timeout=10, context=self._trust)
        try:
            self._connection.request(method, path, text, {**self._headers, "Content-Type": kind})
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        answer: Object = json.loads(content)
        if response.status >= 300:
            raise Refused(response.status, str(answer.get("message", content)))
        return answer
