"""Brings a run back from its output to the work folder of this machine: newest checkpoint, its models, its metrics."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
from pathlib import Path

from semires_trainer import atomic
from semires_trainer.checkpoint_folders import MANIFEST, fault_of, folder_of, newest_valid, number_of
from semires_trainer.ledger import Entry, read_ledger
from semires_trainer.orders import CONTROL_FOLDER
from semires_trainer.publisher import CHECKPOINTS, GROWING, MODEL_FILE, MODEL_FOLDERS, listed_files
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import ChecksumMismatch, NoSuchKey

logger = logging.getLogger(__name__)

RUN_ID_FILE = f"{CONTROL_FOLDER}-id"
KEPT = ("proposals",)
"""Worth keeping when a run begins anew."""
SINGLE_FILES = ("results.json",)


def restore(storage: Storage, output: str, work: Path) -> Entry | None:
    """Make `work` go on where the output ends; returns the checkpoint that was fetched, None if none was needed.

    A work folder that is ahead of the output stays as it is: its machine was cut off before it could upload. Damaged
    checkpoints are passed over with a warning.
    """
    output = output.rstrip("/")
    local = newest_valid(work / CHECKPOINTS)
    entries, _ = read_ledger(storage, output)
    for entry in reversed(entries):
        if local is not None and number_of(local) >= entry.number:
            return None
        try:
            _fetch(storage, entry, output, work)
        except (ChecksumMismatch, NoSuchKey) as error:
            logger.warning("Checkpoint %s is damaged and passed over: %s", entry.uri, error)
            continue
        return entry
    return None


def begin_anew_unless(run_id: str, work: Path) -> None:
    """Empty the work folder if it belongs to another life of the output, which was emptied or is another one.

    Nodes that share the folder do it once; the control folders stay.
    """
    record = work / RUN_ID_FILE
    work.mkdir(parents=True, exist_ok=True)
    with (work / f"{RUN_ID_FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if record.is_file() and record.read_text(encoding="utf-8").strip() == run_id:
            return
        for path in work.iterdir():
            if path.name not in KEPT and not path.name.startswith(CONTROL_FOLDER):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        atomic.write_text(record, run_id + "\n")


def _fetch(storage: Storage, entry: Entry, output: str, work: Path) -> None:
    """All of it takes its place once all is there, the checkpoint last: it says so."""
    models = {name: uri for name, uri in entry.models.items() if name in MODEL_FOLDERS}
    with contextlib.ExitStack() as places:
        target = folder_of(work / CHECKPOINTS, entry.number)
        folder = places.enter_context(atomic.replace_directory(target))
        storage.download(f"{entry.uri}/{MANIFEST}", folder / MANIFEST, sha256=entry.sha256)
        _fetch_listed(storage, entry.uri, folder / MANIFEST)
        fault = fault_of(folder)
        if fault is not None:
            raise ChecksumMismatch(fault, remedy="An older checkpoint is used")
        for name, uri in models.items():
            _fetch_model(storage, uri, places.enter_context(atomic.replace_directory(work / name)))
        for name in (*GROWING, *SINGLE_FILES):
            _fetch_files(storage, f"{output}/{name}", work / name)


def _fetch_model(storage: Storage, uri: str, folder: Path) -> None:
    storage.download(f"{uri}/{MODEL_FILE}", folder / MODEL_FILE)
    if not uri.endswith(f"-{atomic.file_sha256(folder / MODEL_FILE)[:16]}"):
        raise ChecksumMismatch(f"{uri}/{MODEL_FILE} is not what its name says", remedy="An older one is used")
    _fetch_listed(storage, uri, folder / MODEL_FILE)


def _fetch_listed(storage: Storage, uri: str, listing: Path) -> None:
    """The files that a manifest or a model's description lists, beside it."""
    for name, digest in listed_files(listing).items():
        storage.download(f"{uri}/{name}", listing.parent / name, sha256=digest)


def _fetch_files(storage: Storage, uri: str, target: Path) -> None:
    """A file or everything below a folder; nothing if there is neither."""
    if storage.exists(uri):
        storage.download(uri, target)
        return
    for stat in storage.list(uri):
        storage.download(stat.uri, target / stat.uri.removeprefix(f"{uri}/"))
