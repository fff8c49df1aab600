"""The small HTTP server of a run: /progress, /metrics, /healthz and /checkpoint.

It answers from what the supervisor knows, so ranks that hang cannot hang it. One request a connection, each in its own
thread, a bounded number of them; clients that take too long are cut off.
"""

from __future__ import annotations

import errno
import http.client
import io
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Protocol, cast

from semires_trainer.errors import InfrastructureError
from semires_trainer.exposition import CONTENT_TYPE

logger = logging.getLogger(__name__)

PORT = 9464
MAX_CONNECTIONS = 16
MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 4 * 1024
MAX_PASSED_OVER_BYTES = 1024 * 1024
SILENCE_SECONDS = 5.0
REQUEST_SECONDS = 10.0
"""Longest time of a whole request: a client that sends a byte now and then is never silent."""
POLL_SECONDS = 0.1
"""Between looks for clients that take too long, and for the end."""
YIELD_SECONDS = 1.0
"""While all connections are taken, one as old as this gives way to a new one."""
UNREAD = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.LENGTH_REQUIRED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
}
"""Refusals of requests that were not read to their end."""
WITHOUT_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""What listening at "::" comes to where the kernel has no IPv6 (`ipv6.disable=1`), or no address of it."""


class Watched(Protocol):
    """What the server tells. Each call answers at once, from any thread."""

    def progress(self) -> dict[str, Any]:
        """The document of /progress."""

    def metrics(self) -> bytes:
        """Prometheus' text."""

    def health(self) -> dict[str, Any]:
        """The document of /healthz: facts about the ranks. Information: the status is always 200."""

    def request_checkpoint(self) -> dict[str, Any]:
        """Ask for a checkpoint; what becomes of the request."""


class Server:
    """A running server; a context manager that ends it."""

    def __init__(self, address: tuple[str, int], source: Watched) -> None:
        self._server = _HTTPServer(address, source)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="http", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens at."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening. Requests under way may end."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def serve(address: tuple[str, int], source: Watched) -> Server:
    """Serve `source` at (host, port); port 0 takes a free one, host "::" takes IPv4 too, and is enough without IPv6.

    Raises:
        InfrastructureError: the address cannot be listened at.
    """
    try:
        return Server(address, source)
    except OSError as error:
        if address[0] == "::" and error.errno in WITHOUT_IPV6:
            return serve(("0.0.0.0", address[1]), source)
        raise InfrastructureError(
            f"cannot listen at {address[0]}:{address[1]}: {error.strerror}",
            remedy="Choose another port; 0 takes a free one",
        ) from error


class _HTTPServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], source: Watched) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.source = source
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """IPv4 comes to "::" too, whatever the machine's default is (`net.ipv6.bindv6only`)."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve it in a thread, or refuse it if all are taken by requests that are young."""
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                self._cut_off(older_than=YIELD_SECONDS, at_most=1)
            admitted = len(self._open) < MAX_CONNECTIONS
            if admitted:
                self._open[request] = time.monotonic()
        if admitted:
            super().process_request(request, client_address)
        else:
            request.setblocking(False)  # a new connection has room for this; if not, it need not know
            refusal = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
            request.send(refusal)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve it; then its place is free."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.pop(request, None)

    def service_actions(self) -> None:
        """Each POLL_SECONDS: cut off whoever takes too long."""
        with self._lock:
            self._cut_off(older_than=REQUEST_SECONDS, at_most=MAX_CONNECTIONS)

    def _cut_off(self, *, older_than: float, at_most: int) -> None:
        now = time.monotonic()
        late = [request for request, since in self._open.items() if now - since > older_than]
        for request in late[:at_most]:
            del self._open[request]
            try:
                request.shutdown(socket.SHUT_RDWR)  # its thread reads the end, or fails to write
            except OSError:
                logger.debug("A connection ended while it was cut off.")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news; anything else is a bug."""
        level = logging.DEBUG if isinstance(sys.exception(), OSError) else logging.ERROR
        logger.log(level, "A request from %s failed.", client_address, exc_info=True)


class _Head:
    """The lines of a request before its body, MAX_HEAD_BYTES of them at most."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._left = MAX_HEAD_BYTES

    def readline(self, limit: int = -1) -> bytes:
        line = self._stream.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise http.client.LineTooLong("request head")
        return line

    def read(self, size: int) -> bytes:
        return self._stream.read(size)

    def pass_over(self, limit: int) -> None:
        """Read until the other side ends, `limit` bytes at most."""
        while limit > 0 and (chunk := self._stream.read1(MAX_BODY_BYTES)):
            limit -= len(chunk)

    def close(self) -> None:
        self._stream.close()


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server_version = "semires"
    sys_version = ""
    timeout = SILENCE_SECONDS

    def setup(self) -> None:
        super().setup()
        self.rfile = cast("Any", _Head(self.rfile))

    def handle_one_request(self) -> None:
        """Also a first line that is too long is answered."""
        self.command, self.requestline, self.request_version = "", "", "HTTP/1.0"
        try:
            super().handle_one_request()
        except http.client.LineTooLong:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except OSError as error:
            logger.debug("A client went away: %s.", error)
            self.close_connection = True

    def do_GET(self) -> None:
        self._respond()

    do_HEAD = do_POST = do_GET

    def _respond(self) -> None:
        try:
            self._read_body()
            status, kind, content = self._answer()
        except _Refused as refused:
            self._refuse(refused.status, str(refused))
        else:
            self._send(status, kind, content)

    def _answer(self) -> tuple[HTTPStatus, str, bytes]:
        try:
            return self._answer_of_source()
        except _Refused:
            raise
        except Exception as error:
            logger.exception("%s %s could not be answered.", self.command, self.path[:100])
            raise _Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "see the log of the run") from error

    def _answer_of_source(self) -> tuple[HTTPStatus, str, bytes]:
        source, path = cast("_HTTPServer", self.server).source, self.path.partition("?")[0]
        answers = {"/progress": source.progress, "/healthz": source.health, "/checkpoint": source.request_checkpoint}
        if path != "/metrics" and path not in answers:
            raise _Refused(HTTPStatus.NOT_FOUND, "there are /progress, /metrics, /healthz and /checkpoint")
        if self.command not in self._allowed(path):
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} is for {' and '.join(self._allowed(path))}")
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE, source.metrics()
        status = HTTPStatus.ACCEPTED if path == "/checkpoint" else HTTPStatus.OK
        return status, "application/json", json.dumps(answers[path](), allow_nan=False).encode()

    @staticmethod
    def _allowed(path: str) -> tuple[str, ...]:
        return ("POST",) if path == "/checkpoint" else ("GET", "HEAD")

    def _read_body(self) -> None:
        """No request needs a body; a small one is passed over."""
        if self.headers.get("Transfer-Encoding"):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "a body needs Content-Length")
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()):
            raise _Refused(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
        if len(length) > 9 or int(length) > MAX_BODY_BYTES:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body may have {MAX_BODY_BYTES} bytes")
        if len(self.rfile.read(int(length))) < int(length):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body ends early")

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._send(status, "application/json", json.dumps({"error": message}).encode())
        if status in UNREAD:
            # Closed now, the connection would be reset and the client might not see the answer.
            self.connection.shutdown(socket.SHUT_WR)
            cast("_Head", self.rfile).pass_over(MAX_PASSED_OVER_BYTES)

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", ", ".join(self._allowed(self.path.partition("?")[0])))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses, as JSON too; a method that it does not know is one we do not allow."""
        status = HTTPStatus(code)
        if status == HTTPStatus.NOT_IMPLEMENTED:
            status = HTTPStatus.METHOD_NOT_ALLOWED
        self.close_connection = True
        self._refuse(status, message or status.phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """One line a request would drown the log."""
