"""Which attempt may publish in an output: `owner.json`, changed only by compare-and-swap.

A newer attempt takes the output over; an older one that comes back to life finds out before it publishes anything.
Servers without conditional writes: best effort, as storage warns.
"""

from __future__ import annotations

import json
import time
from typing import Any

from semires_trainer.errors import InfrastructureError
from semires_trainer.orders import Attempt
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import NoSuchKey

OWNER_FILE = "owner.json"
SCHEMA_VERSION = 1
ROUNDS = 50
"""Attempts that start at the same moment disturb each other a few times at most."""


class Superseded(InfrastructureError):
    """A newer attempt owns the output."""

    reason = "Superseded"


class Ownership:
    """The right to publish below `output`, held by one attempt at a time. Not for use by several threads."""

    def __init__(self, storage: Storage, output: str, attempt: Attempt) -> None:
        self._storage = storage
        self._uri = f"{output.rstrip('/')}/{OWNER_FILE}"
        self._attempt = attempt
        self._etag = ""
        self._confirmed = 0

    def claim(self) -> Attempt:
        """Become the owner; an attempt without a number gets the next one. Superseded if a newer one of the job is."""
        for _ in range(ROUNDS):
            found, etag = self._read()
            newest = int(found["attempt"]) if found else 0
            attempt = self._attempt.numbered(self._attempt.number or newest + 1)
            # Attempts are counted per job: a job that was deleted and made again begins at 1 in its old output.
            if newest > attempt.number and found["jobUid"] == attempt.job_uid:
                raise self._superseded(found)
            written = self._write(attempt, etag)
            if written is not None:
                self._attempt, self._etag = attempt, written
                return attempt
            time.sleep(0.02)
        raise InfrastructureError(
            f"{self._uri} changed {ROUNDS} times while it was claimed", remedy="Start one attempt at a time"
        )

    def confirm(self) -> None:
        """Make sure that this attempt still owns the output, to be called before a manifest is published.

        Superseded if another does. Each call changes the record, so of two that race one sees the other.
        """
        for _ in range(ROUNDS):
            written = self._write(self._attempt, self._etag)
            if written is not None:
                self._etag = written
                return
            found, etag = self._read()
            if found and found["podUid"] != self._attempt.pod_uid:
                raise self._superseded(found)
            self._etag = etag
        raise InfrastructureError(f"{self._uri} keeps changing", remedy="Start one attempt at a time")

    def _read(self) -> tuple[dict[str, Any], str]:
        try:
            blob = self._storage.read_bytes(self._uri)
        except NoSuchKey:
            return {}, ""
        try:
            found = json.loads(blob.data)
            attempt = int(found["attempt"])
            return {"attempt": attempt, "podUid": str(found["podUid"]), "jobUid": str(found["jobUid"])}, blob.etag
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise InfrastructureError(f"{self._uri} is no owner's record ({error})", remedy="Delete it") from error

    def _write(self, attempt: Attempt, etag: str) -> str | None:
        self._confirmed += 1
        content = {
            "schemaVersion": SCHEMA_VERSION,
            "attempt": attempt.number,
            "podUid": attempt.pod_uid,
            "jobUid": attempt.job_uid,
            "confirmed": self._confirmed,
        }
        data = json.dumps(content, indent=2).encode() + b"\n"
        if etag:
            return self._storage.compare_and_swap(self._uri, data, etag=etag)
        return self._storage.put_if_absent(self._uri, data)

    def _superseded(self, found: dict[str, Any]) -> Superseded:
        return Superseded(
            f"attempt {found['attempt']} (pod {found['podUid']}) owns the output, this is attempt "
            f"{self._attempt.number} (pod {self._attempt.pod_uid})",
            field="spec.output",
            remedy="Nothing of this attempt was published; look at the newer one, or choose another output",
        )
