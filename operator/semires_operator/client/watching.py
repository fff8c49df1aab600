"""The states of one job as they come: over cut streams, versions too old to watch from, an API server that is away."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from semires_operator.client.errors import Expired, JobGone, JobNotFound, Unreachable
from semires_operator.client.failures import error_of
from semires_operator.client.model import Job, job_of
from semires_operator.names import KIND

WATCH_SECONDS = 60
"""A watch is asked for anew so often; a connection that is dead without saying so is noticed then."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
"""Seconds between two tries to reach the API server; the pause doubles."""
PATIENCE_SECONDS = 300.0
"""An API server that is away for so long ends the watch with its error."""


class Source(Protocol):
    """What the gateway offers."""

    def list_jobs(self, namespace: str | None, *, selector: str = "", name: str = "") -> dict[str, Any]:
        """A list of jobs."""

    def watch_jobs(self, namespace: str, name: str, version: str, *, seconds: int) -> Generator[dict[str, Any]]:
        """Events of a job since a version."""


@dataclass(kw_only=True)
class JobWatch:
    """Watches one job."""

    source: Source
    namespace: str
    name: str
    deadline: float = math.inf
    """By `clock`; the states end then."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _version: str = ""
    _told: str = ""
    _uid: str = ""
    _reached: float = -math.inf
    _pause: float = SHORTEST_PAUSE

    def states(self) -> Iterator[Job]:
        """The job now, and after each change; ends at the deadline. States that are soon replaced may be left out.

        Raises JobNotFound if it isn't there at first, JobGone once it is deleted, and what the API server answers:
        Unreachable only at first, or when it stays away for PATIENCE_SECONDS.
        """
        while not self._uid or self.clock() < self.deadline:
            began = self.clock()
            try:
                yield from self._changes()
                self._reached = self.clock()
            except Expired:
                self._begin_anew(began)
            except Unreachable:
                if not self._uid or self.clock() - self._reached > PATIENCE_SECONDS:
                    raise
                self._begin_anew(began)

    def _begin_anew(self, began: float) -> None:
        """Wait, then list: what was missed is in the list, and its version can be watched from."""
        self._version = ""
        lasted = self.clock() - began
        self._pause = SHORTEST_PAUSE if lasted > LONGEST_PAUSE else min(2 * self._pause, LONGEST_PAUSE)
        self.sleep(max(0.0, min(self._pause, self.deadline - self.clock())))

    def _changes(self) -> Iterator[Job]:
        """A list if there is no version to watch from, else one watch."""
        if not self._version:
            yield from self._listed()
            return
        seconds = max(1, math.ceil(min(WATCH_SECONDS, self.deadline - self.clock())))
        stream = self.source.watch_jobs(self.namespace, self.name, self._version, seconds=seconds)
        with contextlib.closing(stream) as events:
            for event in events:
                self._reached = self.clock()
                yield from self._event(event)

    def _listed(self) -> Iterator[Job]:
        """From the list: its version is the present one; that of a job that rests may be too old to watch from."""
        found = self.source.list_jobs(self.namespace, name=self.name)
        items = found.get("items") or []
        if not items and not self._uid:
            raise JobNotFound(f'there is no {KIND} "{self.name}" in namespace "{self.namespace}"')
        self._version = found["metadata"]["resourceVersion"]
        yield from self._state(items[0] if items else None)

    def _event(self, event: dict[str, Any]) -> Iterator[Job]:
        kind, document = event["type"], event["object"]
        if kind == "ERROR":
            raise error_of(int(document.get("code", 0)), document, what=f"the watch of {self.name}")
        self._version = document["metadata"]["resourceVersion"]
        if kind == "DELETED":
            yield from self._state(None)
        elif kind != "BOOKMARK":
            yield from self._state(document)

    def _state(self, document: dict[str, Any] | None) -> Iterator[Job]:
        """The job, unless this state was told already."""
        uid = document["metadata"]["uid"] if document else ""
        if self._uid and uid != self._uid:
            raise JobGone(f'{KIND} "{self.name}" in namespace "{self.namespace}" was deleted')
        self._uid = uid
        if document and document["metadata"]["resourceVersion"] != self._told:
            self._told = document["metadata"]["resourceVersion"]
            yield job_of(document)
