"""The HTTP server: what it answers, what it refuses, and that nobody can keep it from answering others."""

from __future__ import annotations

import errno
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from semires_trainer import serving
from semires_trainer.errors import InfrastructureError
from semires_trainer.serving import Server, serve

HOST = "127.0.0.1"


@dataclass
class Source:
    """Answers at once; counts requests for checkpoints."""

    requests: int = 0
    broken: bool = False
    paths: list[str] = field(default_factory=list)

    def progress(self) -> dict[str, Any]:
        if self.broken:
            raise RuntimeError("secret detail")
        return {"stage": "train"}

    def metrics(self) -> bytes:
        return b"# HELP a b\n# TYPE a gauge\na 1\n"

    def health(self) -> dict[str, Any]:
        return {"ranksAlive": False}

    def request_checkpoint(self) -> dict[str, Any]:
        self.requests += 1
        return {"state": "Passed"}


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def server(source: Source) -> Iterator[Server]:
    with serve((HOST, 0), source) as running:
        yield running


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


def ask(server: Server, method: str, path: str, **options: Any) -> Response:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    try:
        connection.request(method, path, **options)
        answer = connection.getresponse()
        return Response(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def send(server: Server, data: bytes) -> bytes:
    """All that comes back of raw bytes."""
    with socket.create_connection((HOST, server.port), timeout=10) as connection:
        connection.sendall(data)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


def test_documents_are_json(server: Server) -> None:
    progress, health = ask(server, "GET", "/progress"), ask(server, "GET", "/healthz?verbose=1")

    assert (progress.status, progress.document) == (200, {"stage": "train"})
    assert (health.status, health.document) == (200, {"ranksAlive": False})
    assert progress.headers["Content-Type"] == "application/json"


def test_metrics_are_prometheus_text(server: Server) -> None:
    found = ask(server, "GET", "/metrics")

    assert found.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert found.body.endswith(b"a 1\n")


def test_a_checkpoint_is_asked_for_by_post(server: Server, source: Source) -> None:
    found = ask(server, "POST", "/checkpoint", body=b"{}")

    assert (found.status, found.document, source.requests) == (202, {"state": "Passed"}, 1)


@pytest.mark.parametrize("path", ["/progress", "/metrics", "/healthz"])
def test_head_tells_the_length_without_the_body(server: Server, path: str) -> None:
    get, head = ask(server, "GET", path), ask(server, "HEAD", path)

    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(get.body))


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "message"),
    [
        pytest.param("GET", "/", {}, 404, "there are /progress", id="root"),
        pytest.param("POST", "/../etc/passwd", {}, 404, "there are", id="other-path"),
        pytest.param("GET", "/checkpoint", {}, 405, "/checkpoint is for POST", id="checkpoint-by-get"),
        pytest.param("POST", "/progress", {}, 405, "/progress is for GET and HEAD", id="progress-by-post"),
        pytest.param("DELETE", "/progress", {}, 405, "DELETE", id="unknown-method"),
        pytest.param("BREW", "/metrics", {}, 405, "BREW", id="nonsense-method"),
        pytest.param("POST", "/checkpoint", {"Content-Length": "4097"}, 413, "4096 bytes", id="large-body"),
        pytest.param("POST", "/checkpoint", {"Content-Length": "9" * 5000}, 413, "4096 bytes", id="huge-number"),
        pytest.param("POST", "/checkpoint", {"Content-Length": "-1"}, 400, "not a number", id="negative-length"),
        pytest.param("POST", "/checkpoint", {"Transfer-Encoding": "chunked"}, 411, "Content-Length", id="chunked"),
        pytest.param("GET", "/metrics", {"X": "x" * 20_000}, 431, "", id="long-header"),
        pytest.param("GET", "/metrics", {f"X{n}": "x" * 100 for n in range(150)}, 431, "", id="many-headers"),
        pytest.param("GET", "/" + "x" * 20_000, {}, 431, "", id="long-path"),
    ],
)
def test_what_is_refused_is_refused_as_json(
    server: Server, source: Source, method: str, path: str, headers: dict[str, str], status: int, message: str
) -> None:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]

    head, _, body = send(server, "\r\n".join([*lines, "", ""]).encode()).partition(b"\r\n\r\n")

    assert int(head.split()[1]) == status
    assert b"Content-Type: application/json" in head
    assert message in json.loads(body)["error"]
    assert source.requests == 0


def test_a_refused_body_may_be_sent_to_its_end(server: Server) -> None:
    """A client that first sends all would else see a reset connection instead of the answer."""
    with socket.create_connection((HOST, server.port), timeout=10) as connection:
        connection.sendall(b"POST /checkpoint HTTP/1.1\r\nContent-Length: 900000\r\n\r\n")
        answer = connection.recv(100)
        for _ in range(9):
            connection.sendall(b"x" * 100_000)

    assert answer.startswith(b"HTTP/1.0 413 ")


def test_405_names_what_is_allowed(server: Server) -> None:
    assert ask(server, "GET", "/checkpoint").headers["Allow"] == "POST"
    assert ask(server, "POST", "/metrics").headers["Allow"] == "GET, HEAD"


def test_an_error_inside_is_logged_and_not_told(
    server: Server, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    source.broken = True

    found = ask(server, "GET", "/progress")

    assert (found.status, found.document) == (500, {"error": "see the log of the run"})
    assert "secret detail" in caplog.text
    assert ask(server, "GET", "/metrics").status == 200


@pytest.mark.parametrize(
    "data", [b"\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\xff\r\n\r\n"]
)
def test_nonsense_does_no_harm(server: Server, data: bytes) -> None:
    send(server, data)

    assert ask(server, "GET", "/metrics").status == 200


def test_a_body_that_ends_early_asks_for_nothing(server: Server, source: Source) -> None:
    with socket.create_connection((HOST, server.port), timeout=10) as connection:
        connection.sendall(b"POST /checkpoint HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf")
        connection.shutdown(socket.SHUT_WR)

        assert connection.recv(100).startswith(b"HTTP/1.0 400 ")

    assert source.requests == 0


def test_a_client_that_falls_silent_is_no_error(
    server: Server, source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving._Handler, "timeout", 0.05)
    with socket.create_connection((HOST, server.port), timeout=10) as connection:
        connection.sendall(b"POST /checkpoint HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf")

        assert connection.recv(100) == b""

    assert (source.requests, caplog.text) == (0, "")


def stalled(server: Server, number: int, stack: ExitStack) -> list[socket.socket]:
    """Clients that begin a request and do not end it."""
    clients = [stack.enter_context(socket.create_connection((HOST, server.port), timeout=10)) for _ in range(number)]
    for client in clients:
        client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
    return clients


def test_slow_clients_give_way_to_others(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "YIELD_SECONDS", 0.0)
    with ExitStack() as stack:
        stalled(server, 3 * serving.MAX_CONNECTIONS, stack)

        assert ask(server, "GET", "/metrics").status == 200


def test_connections_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "YIELD_SECONDS", 1000.0)
    with ExitStack() as stack:
        stalled(server, serving.MAX_CONNECTIONS, stack)

        assert ask(server, "GET", "/metrics").status == 503


def test_a_request_that_takes_too_long_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REQUEST_SECONDS", 0.0)
    monkeypatch.setattr(serving._Handler, "timeout", 60.0)
    with ExitStack() as stack:
        (client,) = stalled(server, 1, stack)

        assert client.recv(100) == b""


def test_a_port_that_is_taken_is_an_error_with_a_remedy(server: Server, source: Source) -> None:
    with pytest.raises(
        InfrastructureError, match=rf"cannot listen at 127\.0\.0\.1:{server.port}: .*Choose another port"
    ):
        serve((HOST, server.port), source)


def test_a_server_that_was_closed_is_gone(source: Source) -> None:
    with serve((HOST, 0), source) as running:
        port = running.port

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), timeout=10)


def test_it_serves_ipv6_too(source: Source) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with serve(("::", 0), source) as running:
        assert ask(running, "GET", "/metrics").status == 200


def test_it_serves_ipv4_where_the_machine_keeps_both_apart(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")

    class Apart(socket.socket):
        """As with net.ipv6.bindv6only=1."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if self.family == socket.AF_INET6:
                self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Apart)
        running = serve(("::", 0), source)
    with running:
        assert ask(running, "GET", "/metrics").status == 200


@pytest.mark.parametrize(
    "number",
    [pytest.param(errno.EAFNOSUPPORT, id="ipv6-disabled"), pytest.param(errno.EADDRNOTAVAIL, id="no-ipv6-address")],
)
def test_it_serves_ipv4_where_there_is_no_ipv6(source: Source, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    class Without(socket.socket):
        """As on a machine without IPv6."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if self.family == socket.AF_INET6:
                self.close()
                raise OSError(number, "no IPv6")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Without)
        running = serve(("::", 0), source)
    with running:
        assert ask(running, "GET", "/metrics").status == 200
