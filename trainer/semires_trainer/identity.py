"""Whose output this is: `run.json` ties it to what is trained, so two runs never mix their checkpoints."""

from __future__ import annotations

import json
import platform
import subprocess
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from semires_trainer.config import Resolved, resolved_to_dict, training_hash
from semires_trainer.errors import ConfigError, SemiresError
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import NoSuchKey

SCHEMA_VERSION = 1
RUN_FILE = "run.json"
TRAINED = ("checkpoints", "burn-in", "model")
"""What training leaves in the output besides the record."""
LIBRARIES = ("semires", "torch", "torchvision", "timm", "transformers", "pycocotools", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunIdentity:
    """What `run.json` says."""

    identity: str
    """Hash of the sections that determine what is trained."""
    run_id: str
    """Of this output since it was first used: another one means that it was emptied meanwhile."""
    etag: str
    """Names the record's content at the server."""


def claim_output(storage: Storage, output: str, resolved: Resolved, *, job_uid: str = "") -> RunIdentity:
    """Write `run.json` if the output has none, else check that it is this run's.

    A record without anything trained beside it is that of a start that failed, and is replaced. Raises ConfigError
    if the output belongs to a run that trains something else; of two runs that start at once one gets it.
    """
    identity, uri = training_hash(resolved), _record_uri(output)
    found = check_output(storage, output, identity)
    if found is not None and found.identity == identity:
        return found
    run_id = uuid.uuid4().hex
    data = json.dumps(run_record(resolved, identity, run_id=run_id, job_uid=job_uid), indent=2, allow_nan=False)
    content = data.encode() + b"\n"
    written = storage.compare_and_swap(uri, content, etag=found.etag) if found else storage.put_if_absent(uri, content)
    if written is not None:
        return RunIdentity(identity=identity, run_id=run_id, etag=written)
    winner = read_identity(storage, output)
    if winner is None or winner.identity != identity:
        raise _other_run(output, winner.identity if winner else "?", identity)
    return winner


def check_output(storage: Storage, output: str, identity: str) -> RunIdentity | None:
    """The record of the output, None if it has none.

    ConfigError if the output holds something trained by another run, or a record that can't be read.
    """
    found = read_identity(storage, output)
    if found is not None and found.identity != identity and holds_training(storage, output):
        raise _other_run(output, found.identity, identity)
    return found


def confirm_output(storage: Storage, output: str, identity: str) -> None:
    """ConfigError if another run has taken the output since it was claimed: possible while nothing is trained there."""
    found = read_identity(storage, output)
    if found is None or found.identity != identity:
        raise _other_run(output, found.identity if found else "none", identity)


def holds_training(storage: Storage, output: str) -> bool:
    """Whether a run has left anything trained in the output."""
    return any(next(iter(storage.list(f"{output.rstrip('/')}/{name}")), None) is not None for name in TRAINED)


def read_identity(storage: Storage, output: str) -> RunIdentity | None:
    """What `run.json` of an output says, None if there is none; ConfigError if it is no such record."""
    uri = _record_uri(output)
    try:
        blob = storage.read_bytes(uri)
        record = json.loads(blob.data)
        return RunIdentity(identity=str(record["identity"]), run_id=str(record["runId"]), etag=blob.etag)
    except NoSuchKey:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{uri} cannot be read as a run's record ({error})", remedy="Choose another output"
        ) from error


def _record_uri(output: str) -> str:
    return f"{output.rstrip('/')}/{RUN_FILE}"


def _other_run(output: str, found: str, identity: str) -> SemiresError:
    return ConfigError(
        f"{output} holds the run {found[:12]}, but this manifest trains {identity[:12]} "
        f"(compare `resolved` in {_record_uri(output)} with `semires plan`)",
        field="spec.output",
        remedy="Choose another output, or restore the manifest the run was started with",
    )


def run_record(resolved: Resolved, identity: str, *, run_id: str, job_uid: str) -> dict[str, Any]:
    """What `run.json` holds: identity, resolved configuration, and everything needed to repeat the run."""
    return {
        "schemaVersion": SCHEMA_VERSION,
        "job": resolved.name,
        "jobUid": job_uid,
        "identity": identity,
        "runId": run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "gitRevision": git_revision(),
        "python": platform.python_version(),
        "libraries": {name: version_of(name) for name in LIBRARIES},
        "resolved": resolved_to_dict(resolved),
    }


def version_of(library: str) -> str | None:
    """Installed version of a distribution, None if it is not installed (a source checkout on PYTHONPATH)."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Revision of the checkout this code runs from; None for an installed package or where git is absent."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
