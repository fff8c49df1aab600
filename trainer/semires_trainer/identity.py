"""Whose output folder this is: `run.json` ties it to what is trained, so two runs never mix their checkpoints."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from semires_trainer import atomic
from semires_trainer.config import Resolved, resolved_to_dict, training_hash
from semires_trainer.errors import ConfigError

SCHEMA_VERSION = 1
RUN_FILE = "run.json"
TRAINED = ("checkpoints", "burn-in", "model")
"""What training leaves in the output besides the record."""
LIBRARIES = ("semires", "torch", "torchvision", "timm", "transformers", "pycocotools", "numpy")


def claim_output(output: Path, resolved: Resolved) -> str:
    """Write `run.json` if the folder has none, else check that it is this run's; returns the identity.

    A record without anything trained beside it is that of a start that failed, and is replaced. Raises ConfigError
    if the folder belongs to a run that trains something else.
    """
    identity = training_hash(resolved)
    path = output / RUN_FILE
    check_output(output, identity)
    if not path.exists() or read_identity(path) != identity:
        atomic.write_json(path, run_record(resolved, identity))
    return identity


def check_output(output: Path, identity: str) -> None:
    """ConfigError if the folder holds something trained by another run, or a record that can't be read."""
    path = output / RUN_FILE
    found = read_identity(path) if path.exists() else identity
    if found != identity and any((output / name).exists() for name in TRAINED):
        raise ConfigError(
            f"{output} holds the run {found[:12]}, but this manifest trains {identity[:12]} "
            f"(compare `resolved` in {path} with `semires plan`)",
            field="spec.output",
            remedy="Choose another output, or restore the manifest the run was started with",
        )


def read_identity(path: Path) -> str:
    """The identity in a `run.json`; ConfigError if the file is not one."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["identity"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read as a run's record ({error})", remedy="Choose another output"
        ) from error


def run_record(resolved: Resolved, identity: str) -> dict[str, Any]:
    """What `run.json` holds: identity, resolved configuration, and everything needed to repeat the run."""
    return {
        "schemaVersion": SCHEMA_VERSION,
        "job": resolved.name,
        "identity": identity,
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
