"""The API server over HTTP: the only module that speaks to it. Each call has a time limit, each failure is an ApiError.

Writes ask `fence` first: it raises once this replica may no longer be the leader, and bounds how long a write may take.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import aiohttp

from semires_operator import names

Verb = Literal["get", "list", "create", "patch", "delete", "log"]
REQUEST_SECONDS = 10.0
CLOSING_SECONDS = 0.25
"""aiohttp ends connections with TLS after its session has closed; the loop must still run then."""
PAGE = 200
"""Objects of one answer to a LIST."""
TOKEN_SECONDS = 30.0
"""A token file is read again after this long: the kubelet replaces it before it expires."""
MAX_MESSAGE = 2048
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


def micro_time(moment: datetime) -> str:
    """A time in UTC as Leases and Events have it (MicroTime of the API)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """Where the API server is, and who we are."""

    server: str
    """https://host:port."""
    ca_file: str = ""
    ca_data: str = ""
    """PEM, or PEM in base64; one of file and data."""
    certificate_file: str = ""
    certificate_data: str = ""
    key_file: str = ""
    key_data: str = ""
    token: str = ""
    token_file: str = ""
    """Read again and again; wins over `token`."""
    insecure: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """A kind of object, as it stands in paths."""

    group: str = ""
    """Empty for the core group."""
    version: str = "v1"
    plural: str

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Path of an object or of a list; namespace None: of the whole cluster, or of a kind without namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, *(["namespaces", namespace] if namespace else []), self.plural, name, subresource]
        return "/".join(part for part in parts if part)


SEMIRESJOBS = Resource(group=names.GROUP, version=names.VERSION, plural=names.PLURAL)
PYTORCHJOBS = Resource(group="kubeflow.org", plural="pytorchjobs")
JOBS = Resource(group="batch", plural="jobs")
PODS = Resource(plural="pods")
NODES = Resource(plural="nodes")
CORE_EVENTS = Resource(plural="events")
EVENTS = Resource(group="events.k8s.io", plural="events")
LEASES = Resource(group="coordination.k8s.io", plural="leases")


class ApiError(Exception):
    """A call that failed."""

    def __init__(self, *, code: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code or 'no answer'} {reason}: {message}")
        self.code = code
        """HTTP status; 0 when there was no answer."""
        self.reason = reason
        """Reason of the API's Status object; Timeout or Unreachable when there was none."""
        self.message = message
        self.retry_after = retry_after
        """Seconds that the server asks to wait for."""

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed a little later, with nothing changed by anybody."""
        return self.code in {0, 408, 429, 502, 503, 504}


Fence = Callable[[], float]
"""Seconds that a write may take from now on; raises if nothing may be written any more."""
Count = Callable[[Verb, int], None]


class Api:
    """Calls to the API server."""

    def __init__(self, session: aiohttp.ClientSession, connection: Connection, *, fence: Fence, count: Count) -> None:
        self._session = session
        self._connection = connection
        self._fence = fence
        self._count = count
        self._token, self._token_read = connection.token, float("-inf")

    def fenced(self, fence: Fence) -> Api:
        """The same server with another fence."""
        return Api(self._session, self._connection, fence=fence, count=self._count)

    async def get(
        self, resource: Resource, namespace: str | None, name: str, *, seconds: float = REQUEST_SECONDS
    ) -> dict[str, Any]:
        """An object. ApiError 404 if there is none."""
        return await self._json("get", "GET", resource.path(namespace, name), seconds=seconds)

    async def find(
        self, resource: Resource, namespace: str | None, name: str, *, seconds: float = REQUEST_SECONDS
    ) -> dict[str, Any] | None:
        """An object, or None."""
        try:
            return await self.get(resource, namespace, name, seconds=seconds)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def raw(self, path: str) -> dict[str, Any]:
        """What a path of the API tells, such as /apis."""
        return await self._json("get", "GET", path)

    async def list(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects that match, and the resourceVersion of the list. They are fetched in pages."""
        parameters = {"limit": str(PAGE), "labelSelector": label_selector, "fieldSelector": field_selector}
        headers = {"Accept": METADATA_ONLY} if metadata_only else {}
        items: list[dict[str, Any]] = []
        while True:
            given = {name: value for name, value in parameters.items() if value}
            page = await self._json("list", "GET", resource.path(namespace), parameters=given, headers=headers)
            items += page.get("items") or []  # null in an empty list of metadata
            parameters["continue"] = page["metadata"].get("continue", "")
            if not parameters["continue"]:
                return items, page["metadata"].get("resourceVersion", "0")

    async def create(
        self, resource: Resource, namespace: str | None, body: dict[str, Any], *, seconds: float = REQUEST_SECONDS
    ) -> dict[str, Any]:
        """POST an object. ApiError 409 if one of its name exists."""
        parameters = {"fieldManager": names.MANAGER}
        path = resource.path(namespace)
        return await self._json("create", "POST", path, parameters=parameters, body=body, seconds=seconds)

    async def merge_patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: dict[str, Any],
        *,
        resource_version: str,
        subresource: str = "",
        seconds: float = REQUEST_SECONDS,
    ) -> dict[str, Any]:
        """Change an object that still has this resourceVersion. ApiError 409 if it has another."""
        metadata = {**patch.get("metadata", {}), "resourceVersion": resource_version}
        return await self._json(
            "patch",
            "PATCH",
            resource.path(namespace, name, subresource),
            parameters={"fieldManager": names.MANAGER},
            headers={"Content-Type": "application/merge-patch+json"},
            body={**patch, "metadata": metadata},
            seconds=seconds,
        )

    async def delete(self, resource: Resource, namespace: str | None, name: str, *, uid: str) -> None:
        """Delete an object if it has this UID; its dependents follow. Gone, or another of its name, counts as done."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        try:
            await self._json("delete", "DELETE", resource.path(namespace, name), body=options)
        except ApiError as error:
            if error.code not in {404, 409}:
                raise

    async def logs(self, namespace: str, pod: str, container: str, *, lines: int, limit_bytes: int) -> str:
        """The last lines of a container's log. `limit_bytes` cuts their end: ask for more than is needed."""
        parameters = {"container": container, "tailLines": str(lines), "limitBytes": str(limit_bytes)}
        content = await self._call("log", "GET", PODS.path(namespace, pod, "log"), parameters=parameters)
        return content[:limit_bytes].decode("utf-8", errors="replace")

    async def _json(
        self,
        verb: Verb,
        method: str,
        path: str,
        *,
        parameters: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> dict[str, Any]:
        content = await self._call(
            verb, method, path, parameters=parameters, headers=headers, body=body, seconds=seconds
        )
        answer = _parse(content)
        if answer is None:
            raise ApiError(code=0, reason="Unreachable", message=f"{method} {path} was not answered with an object")
        return answer

    async def _call(
        self,
        verb: Verb,
        method: str,
        path: str,
        *,
        parameters: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> bytes:
        if method != "GET":
            seconds = min(seconds, self._fence())
        given = {"Content-Type": "application/json", **self._authorization(), **(headers or {})}
        code = 0
        try:
            async with self._session.request(
                method,
                self._connection.server.rstrip("/") + path,
                params=parameters,
                headers=given,
                data=None if body is None else json.dumps(body, allow_nan=False).encode(),
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,
            ) as response:
                content = await response.read()
                code = response.status
                retry_after = response.headers.get("Retry-After", "")
        except TimeoutError as error:
            raise ApiError(code=0, reason="Timeout", message=f"{method} {path} took over {seconds:g} s") from error
        except aiohttp.ClientError as error:
            raise ApiError(code=0, reason="Unreachable", message=f"{method} {path}: {error}") from error
        finally:
            self._count(verb, code)
        if code >= 300:
            if code == 401:
                self._token_read = float("-inf")
            raise _error_of(code, content, retry_after)
        return content

    def _authorization(self) -> dict[str, str]:
        connection = self._connection
        if connection.token_file and time.monotonic() - self._token_read > TOKEN_SECONDS:
            self._token = Path(connection.token_file).read_text(encoding="utf-8").strip()
            self._token_read = time.monotonic()
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}


def unfenced() -> float:
    """The fence of writes that need no leader: those of the Lease itself."""
    return float("inf")


@asynccontextmanager
async def connect(connection: Connection, *, count: Count, fence: Fence = unfenced) -> AsyncIterator[Api]:
    """Calls to a server; its connections are closed at the end."""
    connector = aiohttp.TCPConnector(limit=64, ssl=ssl_context(connection))
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Api(session, connection, fence=fence, count=count)
    await asyncio.sleep(CLOSING_SECONDS)


def ssl_context(connection: Connection) -> ssl.SSLContext:
    """Trust and certificate of a connection."""
    context = ssl.create_default_context(
        cafile=connection.ca_file or None, cadata=_pem(connection.ca_data) if connection.ca_data else None
    )
    if connection.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if connection.certificate_file or connection.certificate_data:
        with tempfile.TemporaryDirectory() as folder:  # OpenSSL reads certificates from files only
            context.load_cert_chain(
                certfile=connection.certificate_file or _write(folder, "tls.crt", connection.certificate_data),
                keyfile=connection.key_file or _write(folder, "tls.key", connection.key_data),
            )
    return context


def _pem(data: str) -> str:
    return data if data.startswith("-----BEGIN ") else base64.b64decode(data).decode("ascii")


def _write(folder: str, name: str, data: str) -> str:
    path = Path(folder, name)
    path.touch(mode=0o600)
    path.write_text(_pem(data), encoding="ascii")
    return str(path)


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(content)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _error_of(code: int, content: bytes, retry_after: str) -> ApiError:
    """An answer that is no success. Bodies other than a Status are not repeated: they may hold anything."""
    status = _parse(content) or {}
    if status.get("kind") != "Status":
        status = {}
    details = status.get("details") or {}
    seconds = float(retry_after) if retry_after.isdecimal() else details.get("retryAfterSeconds")
    return ApiError(
        code=code,
        reason=str(status.get("reason") or "Unknown"),
        message=str(status.get("message") or f"HTTP {code}")[:MAX_MESSAGE],
        retry_after=float(seconds) if seconds else None,
    )
