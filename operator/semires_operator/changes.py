"""Which fields of a job may change, and what of a spec an attempt runs by. Pure."""

from __future__ import annotations

import hashlib
import json

from semires_trainer.config import Spec

CHANGEABLE_ANYTIME = frozenset(
    {
        "suspend",
        "activeDeadlineSeconds",
        "pendingDeadlineSeconds",
        "failurePolicy",
        "healthPolicy",
        "preflight",
        "ttlSecondsAfterFinished",
    }
)
"""Fields below `spec` that the operator reads at each look."""

CHANGEABLE_WHILE_SUSPENDED = (
    "image",
    "resources",
    "pod",
    "queue",
    "cache",
    "storage.region",
    "storage.credentialsSecret",
    "storage.serviceAccountName",
    "dataset.badImageLimit",
    "proposals.store",
    "proposals.sam.pointsPerBatch",
    "training.device",
    "training.workers",
    "training.microBatch",
    "training.checkpoint",
    "training.logIntervalSteps",
)
"""Fields below `spec` that say how an attempt runs, not what it trains: the next attempt reads them. While one runs,
the spec goes on saying what runs."""
ONE_VALUE = frozenset({"backend", "proposals.sam.mode"})
"""Fields below `spec` that have one valid value today. Whoever adds a second decides when they may change."""


def run_by(spec: Spec) -> str:
    """sha256 of everything that an attempt runs by: the spec without what may change at any time."""
    fields = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
    fixed = {name: value for name, value in fields.items() if name not in CHANGEABLE_ANYTIME}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()
