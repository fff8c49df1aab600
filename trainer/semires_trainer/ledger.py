"""`checkpoints.json` of an output: the checkpoints that are whole and verified there, newest last."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from semires_trainer.errors import InfrastructureError
from semires_trainer.storage import Storage
from semires_trainer.storage.digest import is_sha256
from semires_trainer.storage.failures import NoSuchKey

LEDGER_FILE = "checkpoints.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One verified checkpoint."""

    number: int
    """Optimizer steps of the whole run; the folder is `checkpoints/step-<number>`, on S3 with `-<sha256[:16]>`."""
    step: int
    """Optimizer steps in its stage."""
    epoch: int
    stage: str
    metric: float | None
    """oIoU in percent on the selection split at this step; None if it was not evaluated."""
    uri: str
    """The folder."""
    sha256: str
    """Of the folder's manifest.json, which holds those of all files."""
    bytes: int
    """All files together."""
    time: str
    """When it was verified, UTC."""
    verified: bool = True
    """Size and sha256 of every file were asked for after the upload."""
    milestone: bool = False
    """Kept for good: every n-th epoch."""
    models: dict[str, str] = field(default_factory=dict)
    """Published models at that time: folder name -> the URI of that version."""

    def as_reference(self) -> dict[str, Any]:
        """What progress reports and outcomes say of it."""
        return {"uri": self.uri, "step": self.number, "sha256": self.sha256, "time": self.time, "oIoU": self.metric}


def read_ledger(storage: Storage, output: str) -> tuple[tuple[Entry, ...], str]:
    """The entries, oldest first, and the etag for `write_ledger`; ((), "") if there is no ledger yet."""
    uri = _uri(output)
    try:
        blob = storage.read_bytes(uri, max_bytes=16 << 20)
    except NoSuchKey:
        return (), ""
    try:
        return entries_of(json.loads(blob.data)), blob.etag
    except (ValueError, KeyError, TypeError) as error:
        raise InfrastructureError(
            f"{uri} is no ledger of checkpoints ({error})",
            field="spec.output",
            remedy="Delete it to start from the beginning, or restore it",
        ) from error


def entries_of(document: dict[str, Any]) -> tuple[Entry, ...]:
    """The entries of a parsed ledger; ValueError, KeyError or TypeError if it is none."""
    if document["schemaVersion"] != SCHEMA_VERSION:
        raise ValueError(f"schemaVersion {document['schemaVersion']} is not {SCHEMA_VERSION}")
    return tuple(sorted((_entry_of(entry) for entry in document["checkpoints"]), key=lambda entry: entry.number))


def _entry_of(content: dict[str, Any]) -> Entry:
    entry = Entry(**content)
    counts = (entry.number, entry.step, entry.epoch, entry.bytes)
    texts = (entry.uri, entry.stage, *(text for pair in dict(entry.models).items() for text in pair))
    if not (
        all(type(count) is int and count >= 0 for count in counts)
        and all(isinstance(text, str) for text in texts)
        and (entry.metric is None or math.isfinite(entry.metric))
        and is_sha256(entry.sha256)
        and datetime.fromisoformat(entry.time)
    ):
        raise ValueError(f"the entry of step {entry.number} has a value of another kind")
    return entry


def write_ledger(storage: Storage, output: str, entries: Iterable[Entry], *, etag: str) -> str | None:
    """Replace the ledger that has `etag` ("": there is none); the new etag, None if it was changed by another."""
    listed = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.number)]
    content = {"schemaVersion": SCHEMA_VERSION, "checkpoints": listed}
    data = json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"
    if etag:
        return storage.compare_and_swap(_uri(output), data, etag=etag)
    return storage.put_if_absent(_uri(output), data)


def retained(entries: Sequence[Entry], *, keep_last: int) -> tuple[Entry, ...]:
    """What stays: the newest `keep_last`, the best of each stage, milestones. Never nothing."""
    ordered = sorted(entries, key=lambda entry: entry.number)
    newest = ordered[-max(1, keep_last) :]
    best: dict[str, Entry] = {}
    for entry in ordered:
        if entry.metric is not None and (entry.stage not in best or entry.metric > (best[entry.stage].metric or 0.0)):
            best[entry.stage] = entry
    kept = {entry.number for entry in [*newest, *best.values()]}
    return tuple(entry for entry in ordered if entry.milestone or entry.number in kept)


def _uri(output: str) -> str:
    return f"{output.rstrip('/')}/{LEDGER_FILE}"
