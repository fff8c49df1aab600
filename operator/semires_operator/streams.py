"""Watches: kopf tells what changed, this module passes it on, and a comparison with lists finds what it never told.

kopf runs in a thread and an event loop of its own. When it ends it cancels every task of its loop that began after
it, and in the main thread it takes SIGTERM over; here it can do neither to us. It gets a registry with a login and
with `on.event` handlers only, so that it never writes: no finalizers, annotations, timers, events or peering.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import kopf

from semires_operator import kube, names
from semires_operator.discovery import Served
from semires_operator.server import BEAT_SECONDS, Heartbeats
from semires_operator.store import Kind, Raw, trimmed

logger = logging.getLogger(__name__)

SERVER_SECONDS, CLIENT_SECONDS, SILENT_SECONDS = 600, 610, 70
"""Of a watch: when the server ends it, when we do, and how long it may be silent (bookmarks come each minute)."""
REQUEST_SECONDS = 60.0
OF_JOBS = names.JOB_UID_LABEL
"""Label selector of children and pods."""
Told = Callable[[Kind, bool, Raw], None]
"""Called in the main loop with a kind, whether the object is gone, and the trimmed object."""


class _Backoffs:
    """Waits between calls that fail, without end: kopf gives a watch up for good when they are exhausted."""

    def __iter__(self) -> Iterator[float]:
        yield from (1, 1, 2, 3, 5, 8)
        while True:
            yield 10


def watched(served: Served) -> dict[Kind, kube.Resource]:
    """What is watched of the kinds that this cluster serves."""
    kinds: dict[Kind, kube.Resource] = {"Job": kube.JOBS, "Pod": kube.PODS}
    if served.semiresjobs:
        kinds["SemiRESJob"] = kube.SEMIRESJOBS
    if served.pytorchjobs:
        kinds["PyTorchJob"] = kube.PYTORCHJOBS
    if served.workloads is not None:
        kinds["Workload"] = served.workloads
    return kinds


def selector_of(kind: Kind) -> str:
    """Label selector of a watch or list: everything but jobs and Kueue's Workloads carries our label."""
    return "" if kind in {"SemiRESJob", "Workload"} else OF_JOBS


class Streams:
    """The watches of some kinds, from `start` to `stop`."""

    def __init__(
        self,
        connection: kube.Connection,
        kinds: Mapping[Kind, kube.Resource],
        *,
        namespaces: tuple[str, ...],
        told: Told,
        heartbeats: Heartbeats,
    ) -> None:
        """namespaces: empty for all. Make it in the loop in which `told` is to be called."""
        self._connection = connection
        self._kinds = kinds
        self._namespaces = namespaces
        self._told = told
        self._heartbeats = heartbeats
        self._main = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="streams")
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    async def run(self) -> None:
        """Watch until cancelled. RuntimeError when kopf ends by itself."""
        running = self._main.run_in_executor(self._executor, asyncio.run, self._operate())
        try:
            await asyncio.shield(running)
            raise RuntimeError("The watches have ended by themselves.")
        finally:
            await asyncio.shield(self._end(running))

    async def _end(self, running: asyncio.Future[None]) -> None:
        await asyncio.to_thread(self._started.wait)
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.wait([running])
        self._executor.shutdown(wait=False)
        self._heartbeats.stop("streams")

    async def _operate(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        heart = asyncio.create_task(self._beat())
        self._started.set()
        try:
            await kopf.operator(
                registry=self._registry(),
                settings=kopf_settings(self._kinds),
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=self._stop,
            )
            await asyncio.sleep(kube.CLOSING_SECONDS)
        finally:
            heart.cancel()

    async def _beat(self) -> None:
        while True:
            self._heartbeats.beat("streams")
            await asyncio.sleep(BEAT_SECONDS)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        for kind, resource in self._kinds.items():
            kopf.on.event(*_selector(resource), registry=registry, id=kind, param=kind)(self._handle)
        return registry

    async def _login(self, **_: Any) -> kopf.ConnectionInfo:
        return connection_info(self._connection)

    async def _handle(self, *, event: kopf.RawEvent, param: Any = None, **_: Any) -> None:
        """Pass it on. kopf never calls again for an event whose handler has failed: there is nothing here to fail."""
        kind: Kind = param
        body = trimmed(kind, dict(event["object"]))
        self._main.call_soon_threadsafe(self._told, kind, event["type"] == "DELETED", body)


def kopf_settings(kinds: Mapping[Kind, kube.Resource]) -> kopf.OperatorSettings:
    """How kopf watches. It scans nothing and writes nothing; whether kinds come or go is found out by discovery."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None
    settings.persistence.finalizer = f"{names.GROUP}/never-used"
    settings.watching.chunk_size = kube.PAGE
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = CLIENT_SECONDS
    settings.watching.inactivity_timeout = SILENT_SECONDS
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = _Backoffs()
    for kind, resource in kinds.items():
        if selector_of(kind):
            settings.watching.label_selectors[_selector(resource)] = selector_of(kind)
    return settings


def _selector(resource: kube.Resource) -> tuple[str, str, str]:
    return resource.group, resource.version, resource.plural


def connection_info(connection: kube.Connection) -> kopf.ConnectionInfo:
    """A connection in kopf's words, with the token as it is in its file now."""
    token = connection.token
    if connection.token_file:
        token = Path(connection.token_file).read_text(encoding="utf-8").strip()
    return kopf.ConnectionInfo(
        server=connection.server,
        ca_path=connection.ca_file or None,
        ca_data=connection.ca_data or None,
        certificate_path=connection.certificate_file or None,
        certificate_data=connection.certificate_data or None,
        private_key_path=connection.key_file or None,
        private_key_data=connection.key_data or None,
        token=token or None,
        insecure=connection.insecure or None,
    )
