"""May this job write where it wants to, and is the output its own? Nothing is claimed."""

from __future__ import annotations

import contextlib
import uuid

from semires_trainer.config import Resolved
from semires_trainer.errors import SemiresError, StorageDenied
from semires_trainer.fetch.sources import naming
from semires_trainer.fetch.stores import FIELD as STORE
from semires_trainer.identity import check_output
from semires_trainer.orders import Attempt
from semires_trainer.storage import Storage

OUTPUT = "spec.output"
PROBE = ".preflight-"


def check_output_access(storage: Storage, output: str, identity: str, attempt: Attempt) -> None:
    """ConfigError if the output is another run's; StorageDenied unless objects can be written and removed there."""
    with naming(OUTPUT, output):
        check_output(storage, output, identity)
        write_probe(storage, output, attempt)


def check_store_access(storage: Storage, resolved: Resolved, attempt: Attempt) -> list[str]:
    """A warning if new proposals can't be shared in a store of their own place: the run goes on without."""
    store = resolved.proposals.store
    if store.startswith(f"{resolved.output.rstrip('/')}/"):
        return []
    try:
        with naming(STORE, store):
            write_probe(storage, store.rstrip("/"), attempt)
    except StorageDenied as error:
        return [f"New proposals can't be kept for other jobs: {error}"]
    return []


def write_probe(storage: Storage, folder: str, attempt: Attempt) -> None:
    """Write and remove a small object of this job's own; storage warns if the server ignores conditions."""
    uri = f"{folder}/{PROBE}{attempt.job_uid or attempt.pod_uid}"
    storage.delete(uri)  # of a preflight that was killed
    try:
        storage.put_if_absent(uri, uuid.uuid4().hex.encode())
    except BaseException:
        with contextlib.suppress(SemiresError):
            storage.delete(uri)
        raise
    storage.delete(uri)
