"""Jobs that are made up, and an API server that answers what a test scripts: for faults that a real one can't show."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from semires_operator.client import Client, Job
from semires_operator.client.model import job_of

MakeJob = Callable[..., Job]


def document_of(name: str = "refcoco", *, version: int = 1, generation: int = 1, **status: Any) -> dict[str, Any]:
    """A job as the API server has it; `status` in camelCase."""
    return {
        "apiVersion": "semires.dev/v1alpha1",
        "kind": "SemiRESJob",
        "metadata": {
            "name": name,
            "namespace": "vision",
            "uid": f"uid-of-{name}",
            "generation": generation,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-11-25T08:00:00Z",
        },
        "spec": {
            "dataset": {
                "name": "RefCOCO",
                "annotations": "s3://data/refer",
                "images": "s3://data/train2014",
                "labeled": {"percent": "1"},
            },
            "proposals": {"sam": {"model": "ViTH", "weights": "s3://models/sam_vit_h_4b8939.pth"}},
            "output": "s3://results/refcoco",
        },
        "status": {"observedGeneration": generation, **status},
    }


def condition(type_: str, status: str = "True", reason: str = "Training", message: str = "") -> dict[str, Any]:
    since = "2026-11-25T09:00:00Z"
    return {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}


@pytest.fixture(scope="session")
def make_document() -> Callable[..., dict[str, Any]]:
    """A job as the API server has it."""
    return document_of


@pytest.fixture(scope="session")
def make_condition() -> Callable[..., dict[str, Any]]:
    """A condition of a job."""
    return condition


@pytest.fixture(scope="session")
def make_job() -> MakeJob:
    """A job as the client gives it."""
    return lambda *arguments, **status: job_of(document_of(*arguments, **status))


@dataclass
class Answer:
    """What the scripted API server says to one request."""

    body: Any = None
    """JSON; bytes go as they are; a list goes one line each, as a watch does."""
    code: int = 200
    cut: bool = False
    """Break the connection off in the middle of the answer."""
    silent: bool = False
    """Close the connection instead."""


@dataclass
class ScriptedServer:
    """An API server that gives the answers of a list, in order; the last one again and again."""

    answers: list[Answer]
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request."""
    bodies: list[Any] = field(default_factory=list)
    """What came with them."""
    types: dict[str, str] = field(default_factory=dict)
    """Content type by method."""
    port: int = 0

    def kubeconfig(self, folder: Path) -> Path:
        path = folder / "kubeconfig.json"
        cluster = {"name": "scripted", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        context = {"name": "scripted", "context": {"cluster": "scripted", "user": "me", "namespace": "vision"}}
        other = {"name": "staging", "context": {"cluster": "scripted", "user": "me"}}
        users = [{"name": "me", "user": {"token": "secret"}}]
        head = {"apiVersion": "v1", "kind": "Config", "current-context": "scripted"}
        path.write_text(json.dumps({**head, "clusters": [cluster], "contexts": [context, other], "users": users}))
        return path

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        content = handler.rfile.read(length)
        self.asked.append((handler.command, handler.path))
        self.bodies.append(json.loads(content) if content else None)
        if content:
            self.types[handler.command] = handler.headers["Content-Type"]
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.silent:
            handler.close_connection = True
            return
        handler.send_response(answer.code)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for part in parts_of(answer.body):
            handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        if answer.cut:
            handler.wfile.write(b"40\r\nonly a beg")
            handler.close_connection = True
            return
        handler.wfile.write(b"0\r\n\r\n")


def parts_of(body: Any) -> list[bytes]:
    if isinstance(body, bytes):
        return [body] if body else []
    return [json.dumps(item).encode() + b"\n" for item in (body if isinstance(body, list) else [body])]


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedServer]]:
    """Start a scripted API server."""
    with contextlib.ExitStack() as stack:

        def start(*answers: Answer) -> ScriptedServer:
            script = ScriptedServer(list(answers))

            class Handler(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"
                do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = lambda self: script.respond(self)

                def log_message(self, *_: Any) -> None:
                    """Nothing."""

            server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            server.daemon_threads = True
            script.port = server.server_address[1]
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return script

        yield start


@pytest.fixture
def make_client(scripted: Callable[..., ScriptedServer], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A client of a scripted API server, and the server."""
    with contextlib.ExitStack() as stack:

        def make(*answers: Answer, **options: Any) -> tuple[Client, ScriptedServer]:
            server = scripted(*answers)
            client = stack.enter_context(Client(kubeconfig=server.kubeconfig(tmp_path), **options))
            return client, server

        yield make


@pytest.fixture(scope="session")
def answer() -> type[Answer]:
    """An answer of the scripted API server."""
    return Answer
