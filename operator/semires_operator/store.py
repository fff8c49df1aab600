"""The objects that belong to jobs, as the watches last told them: only what `seen.py` reads of each.

kopf's own indices are not used: after a watch was interrupted for longer than the API server remembers, kopf lists
again and never learns of what was deleted meanwhile. This store can be compared with a list. One thread only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

from semires_operator import names

Kind = Literal["SemiRESJob", "PyTorchJob", "Job", "Pod", "Workload"]
Key = tuple[str, str]
"""Namespace and name of a SemiRESJob."""
Raw = dict[str, Any]
MAX_TOMBSTONES = 10_000
METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "labels",
    "ownerReferences",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
POD_SPEC = ("nodeName", "hostNetwork", "terminationGracePeriodSeconds")
PREFLIGHT = re.compile(r".+-p[1-9][0-9]*")
"""Names of preflight Jobs. Kueue's Workloads carry no label of ours, and may be seen before the Job that owns them: one
of somebody else's Job of such a name is kept as well, and asked for by nobody."""


def trimmed(kind: Kind, body: Raw) -> Raw:
    """What is kept of an object: most of its bytes are templates and managed fields."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    kept: Raw = {
        "kind": kind,
        "apiVersion": body.get("apiVersion", ""),
        "metadata": {name: metadata[name] for name in METADATA if name in metadata},
    }
    if kind == "SemiRESJob":
        return kept
    if kind == "Pod":
        containers = [{"name": container["name"]} for container in spec.get("containers", ())]
        kept["spec"] = {name: spec[name] for name in POD_SPEC if name in spec} | {"containers": containers}
    elif kind == "PyTorchJob":
        kept["spec"] = {"runPolicy": {"suspend": (spec.get("runPolicy") or {}).get("suspend", False)}}
    elif kind == "Job":
        kept["spec"] = {"suspend": spec.get("suspend", False)}
    elif kind == "Workload":
        kept["spec"] = {"active": spec.get("active", True)}
    kept["status"] = body.get("status") or {}
    return kept


class Store:
    """Objects by kind and UID, and by what they belong to."""

    def __init__(self) -> None:
        self._objects: dict[Kind, dict[str, Raw]] = {}
        self._members: dict[tuple[Kind, str], dict[str, Raw]] = {}
        self._dropped: dict[str, None] = {}
        """UIDs that are gone: a late event does not bring them back."""

    def of(self, kind: Kind, belongs_to: str) -> list[Raw]:
        """Objects of the job with this UID; Workloads of the child with this UID."""
        return list(self._members.get((kind, belongs_to), {}).values())

    def jobs(self) -> list[Key]:
        """All SemiRESJobs."""
        return self._keys([self.key_of("SemiRESJob", job) for job in self._all("SemiRESJob")])

    def put(self, kind: Kind, body: Raw) -> Key | None:
        """Take an object in, unless a newer version of it is here. The job it belongs to."""
        body = trimmed(kind, body)
        uid, owners = _uid(body), _belongs_to(kind, body)
        if kind == "Workload" and not owners:  # of somebody else's
            return None
        known = self._objects.setdefault(kind, {}).get(uid)
        if uid not in self._dropped and (known is None or version_of(known) < version_of(body)):
            if known is not None:
                self._leave(kind, known)
            self._objects[kind][uid] = body
            for owner in owners:
                self._members.setdefault((kind, owner), {})[uid] = body
        return self.key_of(kind, body)

    def drop(self, kind: Kind, body: Raw) -> Key | None:
        """Forget an object that is gone. The job it belonged to."""
        uid = _uid(body)
        self._dropped[uid] = None
        if len(self._dropped) > MAX_TOMBSTONES:
            del self._dropped[next(iter(self._dropped))]
        known = self._objects.get(kind, {}).pop(uid, None)
        if known is not None:
            self._leave(kind, known)
        return self.key_of(kind, known or body)

    def drop_all(self, kind: Kind) -> list[Key]:
        """Forget a kind that is not served now; what comes back with it is taken in again. The jobs concerned."""
        gone = self._objects.pop(kind, {})
        for body in gone.values():
            self._leave(kind, body)
        return self._keys([self.key_of(kind, body) for body in gone.values()])

    def differs(self, kind: Kind, namespace: str | None, listed: Iterable[Raw], version: str) -> int:
        """How many objects of a list of this version are newer than ours, or ours and not in the list."""
        by_uid = {_uid(body): body for body in listed}
        known = self._objects.get(kind, {})
        newer = sum(
            uid not in self._dropped and (uid not in known or version_of(known[uid]) < version_of(body))
            for uid, body in by_uid.items()
        )
        return newer + len(self._extinct(kind, namespace, by_uid, version))

    def replace(self, kind: Kind, namespace: str | None, listed: list[Raw], version: str) -> list[Key]:
        """Make our objects those of a list of this version. The jobs concerned."""
        by_uid = {_uid(body): body for body in listed}
        extinct = self._extinct(kind, namespace, by_uid, version)
        return self._keys([self.drop(kind, body) for body in extinct] + [self.put(kind, body) for body in listed])

    def refresh(self, kind: Kind, belongs_to: str, listed: list[Raw], version: str) -> None:
        """Make our objects of one job those of a list of this version."""
        for body in self.of(kind, belongs_to):
            if version_of(body) <= int(version) and all(_uid(body) != _uid(other) for other in listed):
                self.drop(kind, body)
        for body in listed:
            self.put(kind, body)

    def key_of(self, kind: Kind, body: Raw) -> Key | None:
        """The job that an object belongs to."""
        metadata = body["metadata"]
        if kind == "SemiRESJob":
            return metadata["namespace"], metadata["name"]
        if kind == "Workload":
            children = self._objects.get("PyTorchJob", {}) | self._objects.get("Job", {})
            owners = [children[uid] for uid in _belongs_to(kind, body) if uid in children]
            return self.key_of("Job", owners[0]) if owners else None
        name = (metadata.get("labels") or {}).get(names.JOB_LABEL)
        return (metadata["namespace"], name) if name else None

    def _extinct(self, kind: Kind, namespace: str | None, by_uid: dict[str, Raw], version: str) -> list[Raw]:
        return [
            body
            for body in self._all(kind)
            if _uid(body) not in by_uid
            and namespace in (None, body["metadata"]["namespace"])
            and version_of(body) <= int(version)
        ]

    def _leave(self, kind: Kind, body: Raw) -> None:
        for owner in _belongs_to(kind, body):
            members = self._members.get((kind, owner), {})
            members.pop(_uid(body), None)
            if not members:
                self._members.pop((kind, owner), None)

    def _all(self, kind: Kind) -> list[Raw]:
        return list(self._objects.get(kind, {}).values())

    @staticmethod
    def _keys(keys: Iterable[Key | None]) -> list[Key]:
        return list(dict.fromkeys(key for key in keys if key is not None))


def version_of(body: Raw) -> int:
    """The resourceVersion of an object: the API server's are numbers that grow."""
    return int(body["metadata"].get("resourceVersion") or 0)


def _uid(body: Raw) -> str:
    return str(body["metadata"]["uid"])


def is_of_a_child(workload: Raw) -> bool:
    """Whether a Workload is one that is kept."""
    return bool(_belongs_to("Workload", workload))


def _belongs_to(kind: Kind, body: Raw) -> list[str]:
    metadata = body["metadata"]
    if kind == "Workload":
        return [owner["uid"] for owner in metadata.get("ownerReferences", ()) if _is_child(owner)]
    uid = (metadata.get("labels") or {}).get(names.JOB_UID_LABEL)
    return [uid] if uid else []


def _is_child(owner: Raw) -> bool:
    """Whether a reference to an owner is to a PyTorchJob, or to a Job that may be a preflight's."""
    is_preflight = owner["kind"] == "Job" and PREFLIGHT.fullmatch(owner["name"]) is not None
    return owner["kind"] == "PyTorchJob" or is_preflight
