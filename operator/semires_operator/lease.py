"""One leader at a time: a Lease of coordination.k8s.io/v1, renewed by the leader and watched by the others.

Times are judged by the own monotonic clock only: a Lease is free when its record has not changed for its whole
duration while we looked. The clocks of the machines need not agree.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from semires_operator import kube
from semires_operator.work_queue import Fatal

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 3.0


class LeaseLost(Fatal):
    """The Lease could not be renewed in time, or another holds it: nothing may be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """How the Lease is held. Durations in seconds."""

    namespace: str
    name: str
    identity: str
    """Of this process: another start of the same pod is another holder."""
    duration: float = 12
    """A Lease that was not renewed for this long may be taken over."""
    deadline: float = 8
    """A leader that could not renew for this long stops."""
    retry: float = 2
    """Between two attempts."""


class Lease:
    """Our view of the Lease."""

    def __init__(self, api: kube.Api, terms: Terms, *, clock: Callable[[], float] = time.monotonic) -> None:
        """api: without a fence, since the Lease is what fences."""
        self._api = api
        self._terms = terms
        self._clock = clock
        self._renewed: float | None = None
        """When the last successful renewal was sent; None when not the leader."""
        self._record: dict[str, Any] | None = None
        self._record_seen = float("-inf")
        """When the record was first seen as it is."""
        self._answered = float("-inf")
        """When the API server last told us the record."""

    @property
    def leading(self) -> bool:
        """Whether we hold the Lease and may write."""
        return self._renewed is not None and self._clock() - self._renewed < self._terms.deadline

    @property
    def holder(self) -> str:
        """Who holds it, as far as we know; empty for nobody, or when we have not heard for its whole duration."""
        if self._record is None or self._clock() - self._answered > self._terms.duration:
            return ""
        return str(_spec_of(self._record).get("holderIdentity") or "")

    def fence(self) -> float:
        """Seconds until another may take over. LeaseLost after the renewal deadline: then nothing is written."""
        if self._renewed is None:
            raise LeaseLost("This replica does not hold the Lease.")
        since = self._clock() - self._renewed
        if since >= self._terms.deadline:
            raise LeaseLost(f"The Lease was not renewed for {since:.1f} s.")
        return self._terms.duration - since

    async def acquire(self) -> None:
        """Return when we hold it."""
        while not await self._try("acquire"):
            await asyncio.sleep(self._terms.retry)
        logger.info("This replica leads: it holds the Lease %s as %s.", self._terms.name, self._terms.identity)

    async def hold(self) -> None:
        """Renew for ever. LeaseLost when that fails until the deadline."""
        while True:
            await asyncio.sleep(self._terms.retry)
            if not await self._try("renew") and self._lost():
                raise LeaseLost(f"The Lease {self._terms.name} is lost to {self.holder or 'nobody'}.")
            self.fence()

    async def release(self) -> None:
        """Give it back, so that another need not wait for its end. Failure is told and harmless: it ends by itself."""
        if self._renewed is None or self._record is None or self._lost():
            return
        self._renewed = None
        patch = {"spec": {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}}
        try:
            await self._patch(self._record, patch)
        except kube.ApiError as error:
            logger.warning("The Lease could not be released: %s.", error)
        else:
            logger.info("The Lease is released.")

    def _lost(self) -> bool:
        """Whether the record names another."""
        return self._record is not None and _spec_of(self._record).get("holderIdentity") != self._terms.identity

    async def _try(self, what: str) -> bool:
        """One attempt to take or to renew it; whether we hold it afterwards."""
        sent = self._clock()
        try:
            held = await self._attempt()
        except kube.ApiError as error:
            logger.warning("Could not %s the Lease: %s.", what, error)
            return False
        if held:
            self._renewed = sent
        return held

    async def _attempt(self) -> bool:
        terms = self._terms
        found = await self._api.find(kube.LEASES, terms.namespace, terms.name, seconds=REQUEST_SECONDS)
        self._answered = self._clock()
        if found is None:
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": terms.name, "namespace": terms.namespace},
                "spec": self._spec(transitions=0, acquired=_now()),
            }
            self._note(await self._api.create(kube.LEASES, terms.namespace, body, seconds=REQUEST_SECONDS))
            return True
        self._note(found)
        spec = _spec_of(found)
        ours = spec.get("holderIdentity") == terms.identity
        if not ours and not self._free(spec):
            return False
        transitions, acquired = spec.get("leaseTransitions") or 0, spec.get("acquireTime")
        if not ours:
            transitions, acquired = transitions + 1, _now()
        self._note(await self._patch(found, {"spec": self._spec(transitions=transitions, acquired=acquired)}))
        return True

    def _free(self, spec: dict[str, Any]) -> bool:
        duration = spec.get("leaseDurationSeconds") or self._terms.duration
        return not spec.get("holderIdentity") or self._clock() - self._record_seen > duration

    def _note(self, record: dict[str, Any]) -> None:
        """Remember the record, and since when it is so."""
        if self._record is None or _spec_of(record) != _spec_of(self._record):
            self._record_seen = self._clock()
        self._record = record

    def _spec(self, *, transitions: int, acquired: str | None) -> dict[str, Any]:
        return {
            "holderIdentity": self._terms.identity,
            "leaseDurationSeconds": max(1, round(self._terms.duration)),
            "acquireTime": acquired,
            "renewTime": _now(),
            "leaseTransitions": transitions,
        }

    async def _patch(self, record: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
        return await self._api.merge_patch(
            kube.LEASES,
            self._terms.namespace,
            self._terms.name,
            patch,
            resource_version=record["metadata"]["resourceVersion"],
            seconds=REQUEST_SECONDS,
        )


def _spec_of(record: dict[str, Any]) -> dict[str, Any]:
    return record.get("spec") or {}


def _now() -> str:
    return kube.micro_time(datetime.now(UTC))
