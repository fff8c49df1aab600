"""A proxy in front of an API server that counts, refuses, cuts, holds, and kills on request.

It speaks TLS with a certificate of the cluster's authority: a client needs the kubeconfig that `kubeconfig_for` writes,
and nothing else changes for it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import ssl
import struct
import sys
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from testbed import certificates
from testbed.cluster import write_secret

CHUNK_BYTES = 2**16
READS = ("get", "list", "watch")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_NOT_PASSED_ON = ("connection", "transfer-encoding", "content-length", "keep-alive")
_REASONS = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiRequest:
    """One request, in the words of Kubernetes."""

    index: int
    """Counted from 0 since the proxy began, or since `forget`."""
    verb: str
    """get, list, watch, create, update, patch, delete or deletecollection."""
    path: str
    """Without the query."""
    resource: str
    """Plural name; empty for paths such as /readyz."""
    subresource: str
    """Such as status."""
    namespace: str
    """Empty for what has none, and for a list over all."""
    name: str
    """Of the object; empty for lists and creations."""

    @property
    def writes(self) -> bool:
        """It may change something."""
        return self.verb not in READS


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """A request and its answer."""

    request: ApiRequest
    status: int
    """What the client was told; 0 if it was told nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An answer of the proxy, as the API server would word it."""

    status: int
    """HTTP."""
    retry_after: int = 1
    """Seconds, for 429."""

    def body(self) -> bytes:
        """A Status object."""
        reason = _REASONS.get(self.status, "InternalError")
        status = {"status": "Failure", "code": self.status, "reason": reason, "message": f"the proxy answers {reason}"}
        return json.dumps({"kind": "Status", "apiVersion": "v1", "metadata": {}, **status}).encode()


class Fault(Enum):
    """What may happen to a connection."""

    RESET = auto()
    """It is reset, and the client has no answer."""
    HOLD = auto()
    """Nothing happens, until `ApiProxy.release`."""


Decision = Refusal | Fault | None
"""None: pass on."""


class Interference:
    """Decides what happens to requests; passes all on. Called by several threads, one at a time."""

    def before(self, request: ApiRequest) -> Decision:
        """The API server has not seen the request, and won't unless this is None."""
        return None

    def after(self, request: ApiRequest) -> Decision:
        """The API server has done what was asked; the client has not been told."""
        return None


class Errors(Interference):
    """Refuses a part of the requests that `matches`: 429 and 500 for all, 409 for writes too."""

    def __init__(
        self, *, seed: int, rate: float = 0.3, matches: Callable[[ApiRequest], bool] = lambda request: True
    ) -> None:
        self._random, self._rate, self._matches = random.Random(seed), rate, matches

    def before(self, request: ApiRequest) -> Decision:
        if not self._matches(request) or self._random.random() >= self._rate:
            return None
        return Refusal(status=self._random.choice((429, 500, 409) if request.writes else (429, 500)))


class KillAt(Interference):
    """Calls `kill` at the request `index` of those that `matches`: before the API server sees it, or after."""

    def __init__(
        self,
        index: int,
        kill: Callable[[], None],
        *,
        after: bool = False,
        matches: Callable[[ApiRequest], bool] = lambda request: True,
    ) -> None:
        self._left, self._kill, self._after, self._matches = index, kill, after, matches
        self._chosen: ApiRequest | None = None

    @property
    def done(self) -> bool:
        """There were as many requests."""
        return self._chosen is not None

    def before(self, request: ApiRequest) -> Decision:
        if self._chosen is None and self._matches(request):
            self._left -= 1
            if self._left < 0:
                self._chosen = request
        return self._strike(request) if not self._after else None

    def after(self, request: ApiRequest) -> Decision:
        return self._strike(request) if self._after else None

    def _strike(self, request: ApiRequest) -> Decision:
        if self._chosen is not request:
            return None
        self._kill()
        return Fault.RESET


class KillAgain(Interference):
    """Calls `kill` at each `step`-th request of those that `matches`, in turn before the API server sees it and after.

    It counts anew after each time.
    """

    def __init__(self, step: int, kill: Callable[[], None], *, matches: Callable[[ApiRequest], bool]) -> None:
        self.times = 0
        """How often it was called."""
        self._step, self._kill, self._matches = step, kill, matches
        self._next = self._aim()

    def _aim(self) -> KillAt:
        return KillAt(self._step - 1, self._kill, after=self.times % 2 == 1, matches=self._matches)

    def before(self, request: ApiRequest) -> Decision:
        return self._count(self._next.before(request))

    def after(self, request: ApiRequest) -> Decision:
        return self._count(self._next.after(request))

    def _count(self, decision: Decision) -> Decision:
        if decision is not None:
            self.times += 1
            self._next = self._aim()
        return decision


class BlackHole(Interference):
    """Nothing is answered any more."""

    def before(self, request: ApiRequest) -> Decision:
        return Fault.HOLD


class ApiProxy:
    """Listens on a free loopback port, until `close`. `interference` may be replaced at any time."""

    def __init__(self, server: str, authority: certificates.Pair, folder: Path) -> None:
        """In front of `server`, an https URL, with a certificate of `authority` that is written to `folder`."""
        self.interference = Interference()
        self.silent = False
        """Whether nothing that watches tell reaches the client, although they stay open."""
        self.authority = authority
        url = urllib.parse.urlsplit(server)
        self.upstream = (url.hostname or "", url.port or 443)
        self.trust = ssl.create_default_context(cafile=str(authority.certificate))
        self._guard = threading.Lock()
        self._exchanges: list[Exchange] = []
        self._seen = 0
        self._connections: dict[_Handler, ApiRequest | None] = {}
        self._released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._server.socket = self._tls(folder).wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def _tls(self, folder: Path) -> ssl.SSLContext:
        pair = certificates.issue(self.authority, folder, "proxy", subject="/CN=proxy", names=("IP:127.0.0.1",))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        return context

    def kubeconfig_for(self, user: Path, target: Path) -> Path:
        """The kubeconfig `user`, by way of this proxy, written to `target`."""
        content = json.loads(user.read_text())
        cluster = content["clusters"][0]["cluster"]
        cluster.pop("certificate-authority-data", None)
        cluster |= {"server": self.url, "certificate-authority": str(self.authority.certificate)}
        write_secret(target, json.dumps(content))
        return target

    def exchanges(self) -> list[Exchange]:
        """All requests that were answered, in the order of their answers; a watch counts when it begins."""
        with self._guard:
            return list(self._exchanges)

    def counts(self, *, resource: str = "") -> Counter[str]:
        """How many requests of each verb were answered, of all resources or of one."""
        requests = (exchange.request for exchange in self.exchanges())
        return Counter(one.verb for one in requests if resource in ("", one.resource))

    def forget(self) -> None:
        """Count anew."""
        with self._guard:
            self._exchanges.clear()
            self._seen = 0

    def cut_watches(self) -> int:
        """Reset the connections on which a watch runs, and tell how many there were."""
        with self._guard:
            watching = [one for one, request in self._connections.items() if request and request.verb == "watch"]
        for handler in watching:
            handler.cut()
        return len(watching)

    def release(self) -> None:
        """Reset all that is held; what comes now is held again, unless the interference is another."""
        self._released.set()
        self._released = threading.Event()

    def close(self) -> None:
        """Stop listening, and reset all connections."""
        self.interference = Interference()
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._guard:
            left = list(self._connections)
        for handler in left:
            handler.cut()

    # For the handlers

    def number(self) -> int:
        """The next index."""
        with self._guard:
            self._seen += 1
            return self._seen - 1

    def decide(self, when: str, request: ApiRequest) -> Decision:
        """What the interference says; for HOLD this takes as long as it is held."""
        released = self._released
        with self._guard:
            decision: Decision = getattr(self.interference, when)(request)
        if decision is Fault.HOLD:
            released.wait()
            return Fault.RESET
        return decision

    def note(self, request: ApiRequest, status: int) -> None:
        """Remember what the client was told."""
        with self._guard:
            self._exchanges.append(Exchange(request=request, status=status))

    @contextlib.contextmanager
    def serving(self, handler: _Handler, request: ApiRequest | None) -> Iterator[None]:
        """The connection of `handler` is open, and busy with `request` if there is one."""
        with self._guard:
            before = self._connections.get(handler)
            self._connections[handler] = request
        try:
            yield
        finally:
            with self._guard:
                if request is None:
                    del self._connections[handler]
                else:
                    self._connections[handler] = before


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    proxy: ApiProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is what happens here; anything else is a mistake of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        host, port = self.server.proxy.upstream
        self.upstream = http.client.HTTPSConnection(host, port, timeout=3700, context=self.server.proxy.trust)

    def handle(self) -> None:
        with self.server.proxy.serving(self, None):
            super().handle()

    def finish(self) -> None:
        self.upstream.close()
        with contextlib.suppress(OSError):  # the client has gone
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = parse(self.command, self.path, index=self.server.proxy.number())
        with self.server.proxy.serving(self, request):
            if not self._carry_out(self.server.proxy.decide("before", request), request):
                self._forward(request, body)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

    def cut(self) -> None:
        """Reset both sides, from another thread."""
        self._linger()
        for one in (self.connection, self.upstream.sock):
            if one is not None:
                with contextlib.suppress(OSError):  # it is closed already
                    # Not SSLSocket.shutdown: that takes the TLS object away from the thread that reads.
                    socket.socket.shutdown(one, socket.SHUT_RDWR)

    def _carry_out(self, decision: Decision, request: ApiRequest) -> bool:
        """Whether the decision was to answer here, or to reset."""
        if decision is None:
            return False
        if isinstance(decision, Refusal):
            body = decision.body()
            self.send_response_only(decision.status)
            if decision.status == 429:
                self.send_header("Retry-After", str(decision.retry_after))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.server.proxy.note(request, decision.status)
        else:
            self._linger()
            self.close_connection = True
            self.server.proxy.note(request, 0)
        return True

    def _forward(self, request: ApiRequest, body: bytes) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED_ON}
        try:
            self.upstream.request(self.command, self.path, body=body or None, headers=headers)
            response = self.upstream.getresponse()
        except (OSError, http.client.HTTPException):  # the API server is away: so are we
            self._carry_out(Fault.RESET, request)
            return
        if self._carry_out(self.server.proxy.decide("after", request), request):
            self.upstream.close()
            return
        self.server.proxy.note(request, response.status)
        self._relay(response, request)

    def _relay(self, response: http.client.HTTPResponse, request: ApiRequest) -> None:
        length = response.headers.get("Content-Length")
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _NOT_PASSED_ON:
                self.send_header(name, value)
        self.send_header(*(("Content-Length", length) if length else ("Transfer-Encoding", "chunked")))
        self.end_headers()
        try:
            while chunk := response.read1(CHUNK_BYTES):
                if self.server.proxy.silent and request.verb == "watch":
                    continue
                self.wfile.write(chunk if length else b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.flush()
        except (OSError, http.client.HTTPException):  # cut on one side: the other side is to know
            self._linger()
            self.close_connection = True
            return
        response.close()  # read1 leaves it open, and then the connection can carry no other request
        if not length:
            self.wfile.write(b"0\r\n\r\n")

    def _linger(self) -> None:
        """Close with RST instead of FIN."""
        with contextlib.suppress(OSError):  # it is closed already
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def parse(method: str, target: str, *, index: int) -> ApiRequest:
    """A request line in the words of Kubernetes."""
    url = urllib.parse.urlsplit(target)
    words = [word for word in url.path.split("/") if word]
    prefix = {"api": 2, "apis": 3}.get(words[0] if words else "", len(words))
    rest = words[prefix:]
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = [*rest, "", "", ""][:3]
    query = urllib.parse.parse_qs(url.query)
    watches = query.get("watch", [""])[0] in ("1", "true")
    return ApiRequest(
        index=index,
        verb=_verb(method, resource, name, watches=watches),
        path=url.path,
        resource=resource,
        subresource=subresource,
        namespace=namespace,
        name=name,
    )


def _verb(method: str, resource: str, name: str, *, watches: bool) -> str:
    if method == "DELETE":
        return "delete" if name else "deletecollection"
    if method != "GET":
        return _VERBS.get(method, method.lower())
    if watches:
        return "watch"
    return "list" if resource and not name else "get"
