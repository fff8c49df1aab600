"""The folders that a run works in: which they are, that one run has them alone, and whose fault it is if it can't."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from semires_trainer.config import Resolved, training_hash
from semires_trainer.errors import ConfigError, InfrastructureError
from semires_trainer.inputs import local_path
from semires_trainer.orders import POD_UID, ControlFolder
from semires_trainer.storage.failures import explain_os_error

CACHE = "SEMIRES_CACHE"
CLAIM = "spec.cache.claim"
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
MISNAMED = (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""With REFUSED what only somebody who changes the manifest or the folder mends; the rest may pass."""


def work_folder(resolved: Resolved, cache: Path) -> Path:
    """The output itself if it is a folder, else one in the cache for this output and what is trained."""
    if not resolved.output.startswith("s3://"):
        return local_path(resolved.output)
    key = hashlib.sha256(f"{resolved.output.rstrip('/')}\n{training_hash(resolved)}".encode()).hexdigest()
    return cache / "runs" / f"{resolved.name}-{key[:16]}"


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where inputs are kept, shared by all runs of this machine."""
    return Path(environment.get(CACHE) or "~/.cache/semires").expanduser()


def work_field(resolved: Resolved, environment: Mapping[str, str]) -> str:
    """What names the work folder: the output, in a pod the claim of its cache, elsewhere the cache's variable."""
    if not resolved.output.startswith("s3://"):
        return "spec.output"
    return CLAIM if environment.get(POD_UID) else CACHE


@contextlib.contextmanager
def made(work: Path, *, field: str) -> Iterator[None]:
    """Errors of making the work folder as ours: ConfigError if `field` or the folder's owner must change, else 150."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*REFUSED, *MISNAMED):
            raise explain_os_error(error, where=str(work)) from error
        remedy = "Name a folder that can be written to"
        if field == CLAIM:
            remedy = "Set spec.pod.fsGroup to the group that owns the claim, or name a claim that can be written to"
        raise ConfigError(f"the folder {work} can't be made: {error.strerror}", field=field, remedy=remedy) from error


@contextlib.contextmanager
def locked(control: ControlFolder, work: Path) -> Iterator[None]:
    """Work in the folder alone; InfrastructureError if another process does. The kernel unlocks it when ours ends."""
    with (control.path / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            problem = f"another run writes to {work}"
            raise InfrastructureError(problem, field="spec.output", remedy="Wait for it, or end it") from error
        yield
