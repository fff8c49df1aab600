"""Keeps the store as the cluster is: watches of the kinds that are served, and a comparison with lists each minute."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Coroutine
from typing import Any

from semires_operator import kube
from semires_operator.discovery import Served, discover
from semires_operator.metrics import Metrics
from semires_operator.server import Heartbeats
from semires_operator.settings import Settings
from semires_operator.store import Key, Kind, Raw, Store, is_of_a_child
from semires_operator.streams import Streams, selector_of, watched
from semires_operator.work_queue import WorkQueue

logger = logging.getLogger(__name__)

COMPARE_SECONDS = 60.0
GRACE_SECONDS = 5.0
"""What a list shows and no watch has told by then was missed."""
RETRY_SECONDS = 2.0


class Watches:
    """Watches that are restarted when kinds come or go, and when they miss a change."""

    def __init__(
        self,
        api: kube.Api,
        connection: kube.Connection,
        settings: Settings,
        *,
        store: Store,
        queue: WorkQueue[Key],
        heartbeats: Heartbeats,
        metrics: Metrics,
    ) -> None:
        self._api = api
        self._connection = connection
        self._settings = settings
        self._store = store
        self._queue = queue
        self._heartbeats = heartbeats
        self._metrics = metrics
        self.served = Served()
        """Kinds that the cluster serves."""
        self.synced = False
        """Whether the store has once been as the cluster was."""

    async def run(self) -> None:
        """Watch until cancelled. RuntimeError when the watches end by themselves."""
        while not self.synced:
            try:
                self.served = await discover(self._api)
                await self._fill()
                self.synced = True
            except kube.ApiError as error:
                logger.warning("The API server does not tell what there is: %s.", error)
                await asyncio.sleep(RETRY_SECONDS)
        while True:
            logger.info("Watching %s.", ", ".join(sorted(watched(self.served))))
            streams = Streams(
                self._connection,
                watched(self.served),
                namespaces=self._settings.namespaces,
                told=self._told,
                heartbeats=self._heartbeats,
            )
            await first_of(streams.run(), self._until_served_differs(), self._until_something_is_missed())

    def _told(self, kind: Kind, gone: bool, body: Raw) -> None:
        """An event of a watch."""
        self._metrics.last_event.labels(kind).set(time.time())
        key = self._store.drop(kind, body) if gone else self._store.put(kind, body)
        if key is not None:
            self._look_at([key])

    def _look_at(self, keys: list[Key]) -> None:
        for key in keys:
            if self._settings.watches(key[0]):
                self._queue.add(key)

    async def _fill(self) -> None:
        for kind, resource in watched(self.served).items():
            for namespace in self._namespaces():
                listed, version = await self._api.list(resource, namespace, label_selector=selector_of(kind))
                self._look_at(self._store.replace(kind, namespace, listed, version))

    async def _until_served_differs(self) -> None:
        """Ask what is served until it is something else; then every job is looked at."""
        while True:
            await asyncio.sleep(self._settings.discovery_seconds)
            try:
                served = await discover(self._api)
            except kube.ApiError as error:
                logger.warning("The API server does not tell which kinds it serves: %s.", error)
                continue
            if served != self.served:
                for kind in set(watched(self.served)) - set(watched(served)):
                    logger.warning("The kind %s is no longer served.", kind)
                    self._look_at(self._store.drop_all(kind))
                self.served = served
                self._look_at(self._store.jobs())
                return

    async def _until_something_is_missed(self) -> None:
        """Compare the store with lists until a watch has missed a change. The store is right afterwards."""
        while True:
            await asyncio.sleep(COMPARE_SECONDS * random.uniform(0.8, 1.2))
            try:
                missed = [kind for kind in watched(self.served) if await self._compare(kind)]
            except kube.ApiError as error:
                logger.warning("The watches could not be compared with lists: %s.", error)
                continue
            if missed:
                logger.warning("The watches of %s have missed changes: all are started again.", ", ".join(missed))
                return

    async def _compare(self, kind: Kind) -> bool:
        """Whether the watch of a kind has missed changes; then the store is made right by a list."""
        resource, selector = watched(self.served)[kind], selector_of(kind)
        missed = 0
        for namespace in self._namespaces():
            listed, version = await self._api.list(resource, namespace, label_selector=selector, metadata_only=True)
            if kind == "Workload":
                listed = [body for body in listed if is_of_a_child(body)]
            if not self._store.differs(kind, namespace, listed, version):
                continue
            await asyncio.sleep(GRACE_SECONDS)
            differing = self._store.differs(kind, namespace, listed, version)
            if differing:
                missed += differing
                listed, version = await self._api.list(resource, namespace, label_selector=selector)
                self._look_at(self._store.replace(kind, namespace, listed, version))
        self._metrics.missed.labels(kind).inc(missed)
        return missed > 0

    def _namespaces(self) -> tuple[str | None, ...]:
        return self._settings.namespaces or (None,)


async def first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all of them until the first ends, or fails; the others are cancelled and waited for."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
