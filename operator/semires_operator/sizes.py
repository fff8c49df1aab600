"""How much disk a training pod asks for, and how long it may take to end. Pure arithmetic."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from semires_operator.launch import Launch
from semires_trainer.config import checkpoint_bytes, declared_shape, resolve

GI = 1 << 30
SCRATCH_BYTES = 8 * GI
"""For the home folder, /tmp and logs, beside the cache."""
UNKNOWN_BYTES = 100 * GI
"""Disk of a pod of which nothing is known: no preflight, nothing in the manifest."""
PREFLIGHT_BYTES = 20 * GI
UNITS = {"m": Decimal("0.001"), "": Decimal(1)} | {
    letter + suffix: Decimal(base) ** power
    for suffix, base in (("", 1000), ("i", 1024))
    for power, letter in enumerate("kMGTPE" if not suffix else "KMGTPE", start=1)
}
QUANTITY = re.compile(r"([0-9.]+)([A-Za-z]*)")

STOP_SECONDS = 150
"""A rank may take 120 s for its step and its save (ranks.SHUTDOWN_SECONDS of the trainer), and the supervisor 30."""
UPLOAD_BYTES_PER_SECOND = 25e6
"""A slow uplink, for the first upload that nobody has measured."""
LONGEST_GRACE_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Disk:
    """Local disk of a pod, in bytes."""

    request: int
    limit: int
    """Where the kubelet evicts it."""
    cache: int
    """Where it evicts it for its cache alone."""


def disk_of(launch: Launch) -> Disk:
    """What the manifest says; else the size of the cache, or what preflight has measured, and room for scratch.

    A measured size is a forecast, with its margin: twice as much is tolerated. A cache on a claim takes no local disk.
    """
    spec, measured = launch.job.spec, launch.preflight and launch.preflight.ephemeral_storage_bytes
    limit_of_cache = spec.cache.size_limit and bytes_of(spec.cache.size_limit)
    if launch.resources.ephemeral_storage:
        request = limit = bytes_of(launch.resources.ephemeral_storage)
    elif spec.cache.claim:
        request = limit = SCRATCH_BYTES
    elif limit_of_cache:
        request = limit = limit_of_cache + SCRATCH_BYTES
    elif measured:
        request = math.ceil(measured / GI) * GI + SCRATCH_BYTES
        limit = 2 * request
    else:
        request = limit = UNKNOWN_BYTES
    return Disk(request, limit, limit_of_cache or limit)


def bytes_of(quantity: str) -> int:
    """A Kubernetes quantity as a whole number, rounded up."""
    return math.ceil(_value_of(quantity))


def whole_cores_of(quantity: str) -> int:
    """A Kubernetes quantity of CPUs, rounded down."""
    return math.floor(_value_of(quantity))


def _value_of(quantity: str) -> Decimal:
    found = QUANTITY.fullmatch(quantity)
    if found is None:
        raise ValueError(f"{quantity!r} is no quantity")
    return Decimal(found[1]) * UNITS[found[2]]


def grace_seconds_of(launch: Launch) -> int:
    """Seconds between SIGTERM and SIGKILL: a step, a save, and the upload of a checkpoint; in steps of 30.

    The upload takes twice what the last one took, or what its size takes at 25 MB/s.
    """
    if launch.upload_seconds is not None:
        upload = 2 * launch.upload_seconds
    else:
        resolved = resolve(launch.job)
        upload = checkpoint_bytes(resolved, declared_shape(resolved.model)) / UPLOAD_BYTES_PER_SECOND
    return min(math.ceil((STOP_SECONDS + upload) / 30) * 30, LONGEST_GRACE_SECONDS)
