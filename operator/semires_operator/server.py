"""/metrics, /healthz and /readyz, from a thread of their own: they tell the truth when all else hangs."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Protocol, cast

logger = logging.getLogger(__name__)

LONGEST_SILENCE = 30.0
"""Seconds without a heartbeat after which a loop counts as dead: a pause of 30 s fails a probe, not three."""
BEAT_SECONDS = 1.0
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Heartbeats:
    """When each loop of the program was last seen alive. For several threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._lag: dict[str, float] = {}

    def beat(self, loop: str) -> None:
        """The loop is alive."""
        now = self._clock()
        self._lag[loop] = max(0.0, now - self._last.get(loop, now) - BEAT_SECONDS)
        self._last[loop] = now

    def stop(self, loop: str) -> None:
        """The loop has ended, as it should."""
        self._last.pop(loop, None)
        self._lag.pop(loop, None)

    def dead(self) -> list[str]:
        """Loops that have not been heard of for too long, with the time, in words."""
        now = self._clock()
        return [
            f"the {loop} loop has been silent for {now - last:.0f} s"
            for loop, last in list(self._last.items())
            if now - last > LONGEST_SILENCE
        ]

    def lags(self) -> dict[str, float]:
        """Seconds by which the last heartbeat of each loop was late, or is late now."""
        now = self._clock()
        return {
            loop: max(self._lag.get(loop, 0.0), now - last - BEAT_SECONDS, 0.0)
            for loop, last in list(self._last.items())
        }


class Facts(Protocol):
    """What the server tells. Each call answers at once, from any thread."""

    def metrics(self) -> bytes:
        """Prometheus' text."""

    def unhealthy(self) -> list[str]:
        """Why the process should be restarted; empty if it should not."""

    def unready(self) -> list[str]:
        """Why this replica can't do its part; empty if it can."""


class Server:
    """A running server; a context manager that ends it."""

    def __init__(self, port: int, facts: Facts) -> None:
        """Listen on all addresses, IPv4 and IPv6; port 0 takes a free one. OSError if it is taken."""
        self._server = _HTTPServer(("::", port), facts)
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens at."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], facts: Facts) -> None:
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        self.facts = facts
        host = address[0] if self.address_family == socket.AF_INET6 else ""
        super().__init__((host, address[1]), _Handler)

    def server_bind(self) -> None:
        """Also IPv4 reaches a socket of IPv6."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    server_version = "semires-operator"
    sys_version = ""
    timeout = 10

    def do_GET(self) -> None:
        facts = cast("_HTTPServer", self.server).facts
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send(HTTPStatus.OK, METRICS_TYPE, facts.metrics())
        elif path in {"/healthz", "/livez", "/readyz"}:
            problems = facts.unready() if path == "/readyz" else facts.unhealthy()
            status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
            self._send(status, "application/json", json.dumps({"ok": not problems, "problems": problems}).encode())
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"There are /metrics, /healthz and /readyz.\n")

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """One line a probe would drown the log."""
