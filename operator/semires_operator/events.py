"""Events about jobs: one for each transition that `decide` tells, never two of the same."""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime
from typing import Any

from semires_operator import kube, names
from semires_operator.actions import Note

logger = logging.getLogger(__name__)

MAX_NOTE, MAX_REASON = 1024, 128
"""Characters; the API server refuses more."""


async def tell(api: kube.Api, job: dict[str, Any], note: Note, *, attempt: int, instance: str) -> None:
    """Post an event. Its name follows from what it says, so a note that is told again after a crash is no second one.

    A failure is logged and nothing else: an event is a courtesy.
    """
    body = event_of(job, note, attempt=attempt, instance=instance, now=datetime.now(UTC))
    try:
        await api.create(kube.EVENTS, job["metadata"]["namespace"], body)
    except kube.ApiError as error:
        if error.code != 409:
            logger.warning("The event %s could not be posted: %s.", note.reason, error)


def event_of(job: dict[str, Any], note: Note, *, attempt: int, instance: str, now: datetime) -> dict[str, Any]:
    """The object of events.k8s.io/v1 that tells a note about a job."""
    metadata = job["metadata"]
    said = "\0".join((metadata["uid"], str(attempt), note.type, note.reason, note.message))
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{hashlib.sha256(said.encode()).hexdigest()[:16]}",
            "namespace": metadata["namespace"],
        },
        "eventTime": kube.micro_time(now),
        "type": note.type,
        "reason": note.reason[:MAX_REASON],
        "action": "Reconcile",
        "note": note.message[:MAX_NOTE],
        "reportingController": f"{names.GROUP}/{names.MANAGER}",
        "reportingInstance": instance[:128],
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
    }
