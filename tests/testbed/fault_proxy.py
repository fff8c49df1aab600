"""An HTTP proxy in front of an S3 server that fails on purpose, and remembers what passed.

The Host header goes through unchanged, so signatures stay valid.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK_BYTES = 2**18


@dataclass(frozen=True)
class Request:
    """What the client asked for."""

    method: str
    path: str
    range: str = ""
    conditional: bool = False
    """Writes only if something is absent or unchanged."""

    @property
    def moves_content(self) -> bool:
        """A part of a download, or of a multipart upload."""
        if self.method == "GET":
            return self.range not in ("", "bytes=0-0")  # one byte: asks for the reason of a refusal
        return self.method == "PUT" and "partNumber=" in self.path


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Sent instead of asking the server."""

    status: int
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    details: str = ""
    """XML beside the code."""

    def body(self) -> bytes:
        """An S3 error; nothing for a success."""
        if self.status < 300:
            return b""
        return f"<?xml version='1.0'?><Error><Code>{self.code}</Code>{self.details}</Error>".encode()


RESET_BODY, RESET_ANSWER, STALL = "reset in the body", "reset instead of the answer", "stall"
RESET_REQUEST = "reset before the server sees the request"
Decision = Answer | str | None
"""An answer of the proxy, one of the faults above, or None: pass through."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request and what became of it."""

    request: Request
    status: int
    complete: bool


class Faults:
    """Faults at given rates; a function of the seed, the request, and how often it was made."""

    def __init__(self, *, seed: int, slow_down: float = 0.3, internal: float = 0.05, reset: float = 0.06) -> None:
        self._seed = seed
        self._limits = (
            slow_down,
            slow_down + internal,
            slow_down + internal + reset,
            slow_down + internal + 1.5 * reset,
        )
        self._seen: Counter[str] = Counter()
        self._guard = threading.Lock()

    def __call__(self, request: Request) -> Decision:
        thing = re.sub(r"uploadId=[^&]*", "", request.path.rpartition("/")[2])  # not what differs between runs
        name = f"{request.method} {thing} {request.range}"
        with self._guard:
            self._seen[name] += 1
            drawn = random.Random(f"{self._seed} {name} {self._seen[name]}").random()
        slow_down, internal, reset, stall = self._limits
        if drawn < slow_down:
            return Answer(status=503, code="SlowDown" if drawn < slow_down / 8 else "ServiceUnavailable")
        if drawn < internal:
            return Answer(status=500, code="InternalError")
        if drawn < reset:
            return RESET_BODY if drawn < (internal + reset) / 2 else RESET_ANSWER
        return STALL if drawn < stall else None


class Gate:
    """Lets `allowed` of the requests that match (parts, by default) through and holds the others until `open`."""

    def __init__(
        self, allowed: int, matches: Callable[[Request], bool] = lambda request: request.moves_content
    ) -> None:
        self._left = allowed
        self._matches = matches
        self._guard = threading.Lock()
        self._opened = threading.Event()

    def __call__(self, request: Request) -> Decision:
        if not self._matches(request) or self._opened.is_set():
            return None
        with self._guard:
            self._left -= 1
            if self._left >= 0:
                return None
        self._opened.wait()
        return RESET_REQUEST

    def open(self) -> None:
        """Let everything pass; the requests that were held are reset, their client is gone."""
        self._opened.set()


class FaultProxy:
    """Listens on a free port until `close`. `decide` may be replaced at any time."""

    def __init__(self, target_port: int, decide: Callable[[Request], Decision] = lambda _: None) -> None:
        self.decide = decide
        self._exchanges: list[Exchange] = []
        self._in_flight = 0
        self._changed = threading.Condition()
        self.target_port = target_port
        self.stall_seconds = 1.5
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def exchanges(self) -> list[Exchange]:
        """All that was answered, once nothing is under way."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0, timeout=10)
            return list(self._exchanges)

    def parts(self) -> list[Exchange]:
        """The parts that went through completely, so far."""
        with self._changed:
            return [exchange for exchange in self._exchanges if exchange.complete and exchange.request.moves_content]

    def forget(self) -> None:
        """Start counting anew."""
        self.exchanges()
        self._exchanges.clear()

    def count(self, change: int) -> None:
        """A request came or went."""
        with self._changed:
            self._in_flight += change
            self._changed.notify_all()

    def note(self, exchange: Exchange) -> None:
        """Remember what became of a request."""
        with self._changed:
            self._exchanges.append(exchange)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    proxy: FaultProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is what happens here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.upstream = http.client.HTTPConnection("127.0.0.1", self.server.proxy.target_port, timeout=60)

    def finish(self) -> None:
        self.upstream.close()
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def handle_any(self) -> None:
        self.server.proxy.count(+1)
        try:
            self._handle()
        finally:
            self.server.proxy.count(-1)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        conditional = self.command == "PUT" and ("If-None-Match" in self.headers or "If-Match" in self.headers)
        request = Request(self.command, self.path, self.headers.get("Range", ""), conditional)
        decision = self.server.proxy.decide(request)
        if isinstance(decision, Answer):
            self._reply(decision)
            self._note(request, decision.status, complete=False)
            return
        if decision in (STALL, RESET_REQUEST):
            threading.Event().wait(self.server.proxy.stall_seconds if decision == STALL else 0)
            self._reset()
            return
        self._forward(request, body, decision)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def _reply(self, answer: Answer) -> None:
        body = answer.body()
        self.send_response_only(answer.status)
        for name, value in {"Content-Type": "application/xml", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _forward(self, request: Request, body: bytes, fault: str | None) -> None:
        self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection"):
                self.upstream.putheader(name, value)
        self.upstream.endheaders(body or None)
        response = self.upstream.getresponse()
        if fault == RESET_ANSWER:
            response.close()
            self.upstream.close()
            self._reset()
            return
        length = response.headers.get("Content-Length")
        content = b"" if length else response.read()
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self._relay(response, limit=int(length or 0) // 2 if fault == RESET_BODY else None)
        self._note(request, response.status, complete=not fault)

    def _relay(self, response: http.client.HTTPResponse, *, limit: int | None) -> None:
        sent = 0
        while chunk := response.read(CHUNK_BYTES if limit is None else min(CHUNK_BYTES, limit - sent)):
            self.wfile.write(chunk)
            sent += len(chunk)
        if limit is not None:
            response.close()
            self.upstream.close()
            self._reset()

    def _reset(self) -> None:
        """Close the connection with RST instead of FIN."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _note(self, request: Request, status: int, *, complete: bool) -> None:
        done = complete and status < 400
        self.server.proxy.note(Exchange(request=request, status=status, complete=done))
