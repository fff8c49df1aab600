"""Brings what the ranks leave in the work folder to the output, in an order in which nothing is ever half there.

A checkpoint becomes visible in three steps: its files, then, if this attempt still owns the output, its
manifest, then its line in `checkpoints.json`. The models that belong to it are there before. Whatever is read meanwhile
is a hard link or a copy, so that the ranks may replace and delete as they like. What is listed is never written to: the
sha256 is part of a folder's name, so a checkpoint that is saved again, or by another attempt, gets another place.

An output that is a folder is the work folder itself: its checkpoints are verified and listed, nothing is copied.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from semires_trainer.atomic import REPLACED, file_sha256
from semires_trainer.checkpoint_folders import (
    MANIFEST,
    STATE,
    checkpoints_of,
    fault_of,
    number_of,
    read_summary,
)
from semires_trainer.errors import InfrastructureError, SemiresError, WeightsError
from semires_trainer.inputs import local_path
from semires_trainer.ledger import Entry, read_ledger, retained, write_ledger
from semires_trainer.storage import Storage
from semires_trainer.storage.digest import is_sha256
from semires_trainer.storage.failures import ChecksumMismatch, NoSuchKey, explain_os_error

logger = logging.getLogger(__name__)

MODEL_FOLDERS = ("burn-in", "model")
MODEL_FILE = "model.json"
VERSIONS = "versions"
CHECKPOINTS = "checkpoints"
GROWING = ("metrics.jsonl", "events")
"""Appended to while it is copied."""
REPLACING_TRIES, REPLACING_SECONDS = 5, 0.02
"""Two renames replace a folder; what a killed process left between them is not waited for any longer."""
Version = tuple[int, int]
"""Tells a folder from others that have its name before or after it."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What publishing one checkpoint took."""

    entry: Entry
    moved: int
    """Bytes sent."""
    seconds: float
    saved_at: float
    """When the ranks had written it, by the clock of the work folder's disk."""


class Publisher:
    """Publishes for one attempt. One thread at a time."""

    def __init__(
        self,
        storage: Storage,
        output: str,
        work: Path,
        *,
        outgoing: Path,
        confirm: Callable[[], None],
        keep_last: int,
        keep_every: int | None = None,
    ) -> None:
        """`confirm` raises if another attempt owns the output by now; `outgoing` is a folder on the disk of `work`;
        `keep_every`: epochs of a stage between checkpoints that are kept for good.
        """
        self._storage = storage
        self._output = output.rstrip("/")
        self._work = work
        self._outgoing = outgoing
        self._confirm = confirm
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._is_copy = not _is_same_folder(output, work)
        self._entries, self._etag = read_ledger(storage, self._output)
        self._damaged: set[Version | None] = {None}
        shutil.rmtree(outgoing, ignore_errors=True)  # links of a killed process keep deleted checkpoints on the disk

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The checkpoints in the output, oldest first."""
        return self._entries

    def publish_newest(self, on_listed: Callable[[Upload], None] = lambda _upload: None) -> Upload | None:
        """Publish the newest checkpoint of the work folder, else an older one that is kept for good and was overtaken
        while the storage was down; None if there is nothing to do. Damaged ones are passed over, with one warning.

        `on_listed` hears of it at once: deleting what it replaces may take as long as a storage that is down.
        WeightsError if a model that belongs to it is damaged.
        """
        started = time.monotonic()
        while (folder := self._wanted()) is not None:
            version = _version_of(folder)
            try:
                with _explained(folder):
                    saved_at = (folder / MANIFEST).stat().st_mtime
                    entry, moved = self._publish_copy(folder) if self._is_copy else (self._verified(folder), 0)
            except FileNotFoundError:
                if not folder.is_dir() or (folder / MANIFEST).exists():
                    return None  # pruned or replaced meanwhile: the next look finds another one
                self._pass_over(folder, version, f"it has no {MANIFEST}")
            except ChecksumMismatch as error:
                self._pass_over(folder, version, error.message)
            else:
                self._append(entry)
                upload = Upload(entry=entry, moved=moved, seconds=time.monotonic() - started, saved_at=saved_at)
                on_listed(upload)
                if self._is_copy:
                    self._remove_unlisted()
                return upload
        return None

    def _wanted(self) -> Path | None:
        """A checkpoint that the ledger lacks: the newest, else the oldest overtaken one that retention would keep."""
        every = checkpoints_of(self._work / CHECKPOINTS)
        folders = [path for path in every if _version_of(path) not in self._damaged]
        if not folders:
            return None
        entries, newest = self._entries_of_this_run(), folders[-1]
        if not self._is_listed(newest) and all(each.number <= number_of(newest) for each in entries):
            return newest
        known = {entry.number for entry in entries}
        overtaken = {number_of(path): path for path in folders if number_of(path) not in known}
        candidates = [entry for path in overtaken.values() for entry in self._readable(path)]
        kept = retained([*entries, *candidates], keep_last=self._keep_last)
        return next((overtaken[entry.number] for entry in candidates if entry in kept), None)

    def _entries_of_this_run(self) -> tuple[Entry, ...]:
        """The ledger without what is given up: a run goes back only behind checkpoints that it could not read."""
        newest = max(map(number_of, checkpoints_of(self._work / CHECKPOINTS)), default=0)
        return tuple(entry for entry in self._entries if entry.number <= newest)

    def _is_listed(self, folder: Path) -> bool:
        """Whether the ledger has just this checkpoint; one that can't be read is not in it."""
        try:
            digest = file_sha256(folder / MANIFEST)
        except FileNotFoundError:
            return False
        return any(entry.sha256 == digest and entry.number == number_of(folder) for entry in self._entries)

    def _readable(self, folder: Path) -> list[Entry]:
        """What the ledger would say of a checkpoint; nothing if that can't be read: then it isn't worth keeping."""
        try:
            return [entry_of(folder, uri=str(folder), models={}, keep_every=self._keep_every)]
        except (FileNotFoundError, ChecksumMismatch):
            return []

    def _pass_over(self, folder: Path, version: Version | None, problem: str) -> None:
        self._damaged.add(version)
        if not folder.name.endswith(REPLACED):  # such a folder may just be on its way out
            logger.warning("Checkpoint %s is damaged and not published: %s.", folder, problem)

    def publish_files(self) -> int:
        """Bring everything else to the output: results, models, metrics, pictures; returns the bytes sent."""
        if not self._is_copy:
            return 0
        self._confirm()
        moved = 0
        with _explained(self._work):
            for name in MODEL_FOLDERS:
                with self._linked(self._work / name) as folder:
                    moved += self._send_model(folder, f"{self._output}/{name}") if folder is not None else 0
            for path in self._other_files():
                moved += self._send_copy(path)
        return moved

    def publish_bytes(self, name: str, data: bytes) -> None:
        """Write a small file of the supervisor's own."""
        path = self._outgoing / name
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            self._storage.upload(path, f"{self._output}/{name}")
            path.unlink()

    def _verified(self, folder: Path) -> Entry:
        """The entry of a checkpoint in an output that is a folder."""
        fault = fault_of(folder)
        if fault is not None:
            if not folder.is_dir():
                raise FileNotFoundError(folder)
            raise ChecksumMismatch(fault, remedy="Look at the disk")
        self._confirm()
        models = {name: str(self._work / name) for name in MODEL_FOLDERS if (self._work / name / MODEL_FILE).is_file()}
        return entry_of(folder, uri=str(folder), models=models, keep_every=self._keep_every)

    def _publish_copy(self, folder: Path) -> tuple[Entry, int]:
        for overtaken in self._outgoing.glob("step-*"):
            if overtaken.name != folder.name:
                shutil.rmtree(overtaken)
        with self._linked(folder) as linked:
            if linked is None:
                raise FileNotFoundError(folder)
            _check_is_whole(folder, linked)
            files, digest = listed_files(linked / MANIFEST), file_sha256(linked / MANIFEST)
            uri = f"{self._output}/{CHECKPOINTS}/step-{number_of(folder):08d}-{digest[:16]}"
            models, moved = self._send_versions()
            entry = entry_of(linked, uri=uri, models=models, keep_every=self._keep_every)
            moved += sum(self._send_copy(path) for path in self._growing_files())
            for name, wanted in files.items():
                moved += self._storage.upload(linked / name, f"{uri}/{name}", sha256=wanted).moved
            self._confirm()
            moved += self._storage.upload(linked / MANIFEST, f"{uri}/{MANIFEST}", sha256=digest).moved
            return entry, moved

    def _send_versions(self) -> tuple[dict[str, str], int]:
        """Send the models of this moment, each version to a place of its own; returns where they are."""
        places, moved = {}, 0
        for name in MODEL_FOLDERS:
            with self._linked(self._work / name) as folder:
                if folder is not None:
                    digest = file_sha256(folder / MODEL_FILE) if (folder / MODEL_FILE).is_file() else ""
                    places[name] = f"{self._output}/{VERSIONS}/{name}-{digest[:16]}"
                    moved += self._send_model(folder, places[name])
        return places, moved

    def _send_model(self, folder: Path, uri: str) -> int:
        """Send a model folder, the file with the checksums last; WeightsError if it is damaged."""
        try:
            listed = listed_files(folder / MODEL_FILE)
            sent = [self._storage.upload(folder / name, f"{uri}/{name}", sha256=listed[name]) for name in listed]
            sent.append(self._storage.upload(folder / MODEL_FILE, f"{uri}/{MODEL_FILE}"))
        except (FileNotFoundError, NoSuchKey, ChecksumMismatch) as error:
            problem = error.message if isinstance(error, SemiresError) else str(error)
            raise WeightsError(
                f"the model {self._work / folder.name} is damaged ({problem})",
                remedy=f"Delete {self._work} and start again: the run goes on where its output ends",
            ) from error
        return sum(transfer.moved for transfer in sent)

    def _send_copy(self, path: Path) -> int:
        copy = self._outgoing / "file"
        self._outgoing.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        return self._storage.upload(copy, f"{self._output}/{path.relative_to(self._work)}").moved

    def _growing_files(self) -> list[Path]:
        files = [file for name in GROWING for file in _files_below(self._work / name)]
        return [file for file in files if file.is_file()]

    def _other_files(self) -> list[Path]:
        """Visible files of the work folder outside checkpoints, models and proposals."""
        left_out = {CHECKPOINTS, VERSIONS, "proposals", *MODEL_FOLDERS}
        roots = [path for path in self._work.iterdir() if path.name not in left_out and not path.name.startswith(".")]
        return sorted(file for root in roots for file in _files_below(root))

    @contextlib.contextmanager
    def _linked(self, folder: Path) -> Iterator[Path | None]:
        """The files of a folder under another name, which stay when it is replaced; None if it is not there.

        After a failure the links stay too: beside them lies how far an upload has come, and the next one goes on there.
        """
        target = self._outgoing / folder.name
        found = target if _are_linked(folder, target) else _link_files(folder, target)
        for _ in range(REPLACING_TRIES):
            if found is not None or not _is_being_replaced(folder):
                break
            time.sleep(REPLACING_SECONDS)
            found = _link_files(folder, target)
        yield found
        shutil.rmtree(target, ignore_errors=True)

    def _append(self, entry: Entry) -> None:
        others = tuple(each for each in self._entries_of_this_run() if each.number != entry.number)
        kept = retained([*others, entry], keep_last=self._keep_last) if self._is_copy else self._present(others, entry)
        written = write_ledger(self._storage, self._output, kept, etag=self._etag)
        if written is None:
            # Somebody else has written since: either a newer attempt, or a write of ours whose answer was lost.
            self._confirm()
            _, self._etag = read_ledger(self._storage, self._output)
            written = write_ledger(self._storage, self._output, kept, etag=self._etag)
        if written is None:
            raise InfrastructureError("the ledger of checkpoints keeps changing", remedy="Start one attempt at a time")
        self._entries, self._etag = kept, written

    def _present(self, others: tuple[Entry, ...], entry: Entry) -> tuple[Entry, ...]:
        """In a folder the ranks prune checkpoints themselves: what is still there, and the new one."""
        there = [each for each in others if Path(each.uri).is_dir()]
        return tuple(sorted([*there, entry], key=lambda each: each.number))

    def _remove_unlisted(self) -> None:
        """Delete what no entry names: pruned checkpoints, and parts that a killed attempt left behind.

        Looked for before the ownership is confirmed, so nothing of a newer attempt is among it.
        """
        listed = {entry.uri for entry in self._entries} | {
            uri for each in self._entries for uri in each.models.values()
        }
        newest = self._entries[-1].number
        found = [stat.uri for root in (CHECKPOINTS, VERSIONS) for stat in self._storage.list(f"{self._output}/{root}")]
        folders = {uri: uri.rpartition("/")[0] for uri in found}
        doomed = [uri for uri in found if folders[uri] not in listed and _number_in(folders[uri]) <= newest]
        if doomed:
            self._confirm()
        for uri in doomed:
            self._storage.delete(uri)


def entry_of(folder: Path, *, uri: str, models: dict[str, str], keep_every: int | None) -> Entry:
    """The ledger's line about a checkpoint folder; ChecksumMismatch if it lacks what the line tells."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        summary = read_summary(folder)
        return Entry(
            number=summary.number,
            step=summary.step,
            epoch=summary.epoch,
            stage=summary.stage,
            metric=summary.oiou,
            uri=uri,
            sha256=file_sha256(folder / MANIFEST),
            bytes=sum(int(wanted["bytes"]) for wanted in manifest.values()),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            milestone=keep_every is not None and summary.step % (keep_every * summary.steps_per_epoch) == 0,
            models=models,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ChecksumMismatch(f"{folder / STATE} can't be read ({error})", remedy="It was not published") from error


def listed_files(path: Path) -> dict[str, str]:
    """sha256 of each file that a checkpoint's manifest or a model's description lists.

    ChecksumMismatch if it is no such list, or names files elsewhere.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_model = path.name == MODEL_FILE
        listed = content["sha256"] if is_model else {name: wanted["sha256"] for name, wanted in content.items()}
        if not all(name and "/" not in name and name[0] != "." and is_sha256(listed[name]) for name in listed):
            raise ValueError("a name or a sha256 is none")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChecksumMismatch(f"{path.name} is no list of files ({error})", remedy="It is not used") from error
    return dict(listed)


@contextlib.contextmanager
def _explained(where: Path) -> Iterator[None]:
    """Errors of the disk as ours, but for files that are gone, which may mean nothing."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise explain_os_error(error, where=str(where)) from error


def _check_is_whole(folder: Path, linked: Path) -> None:
    """ChecksumMismatch if the links are no checkpoint, FileNotFoundError if that is because the folder is going away.

    The content of the files is verified by the upload.
    """
    fault = fault_of(linked, with_content=False)
    if fault is not None and not _are_linked(folder, linked):
        raise FileNotFoundError(folder)
    if fault is not None:
        raise ChecksumMismatch(fault, remedy="It was not published")


def _version_of(folder: Path) -> Version | None:
    """None if it is gone."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _are_linked(folder: Path, target: Path) -> bool:
    """Whether `target` holds links to just the files of `folder`."""
    try:
        names = {name for name in os.listdir(target) if not name.startswith(".")}
        is_same = names == set(os.listdir(folder)) != set()
        return is_same and all(os.path.samefile(folder / name, target / name) for name in names)
    except FileNotFoundError:
        return False


def _link_files(folder: Path, target: Path) -> Path | None:
    """Hard links to all files of a folder, of that folder only if another takes its name; None if it vanished."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        source = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        names = os.listdir(source)
        for name in names:
            os.link(name, target / name, src_dir_fd=source)
    except FileNotFoundError:
        return None
    finally:
        os.close(source)
    return target if names else None


def _is_being_replaced(folder: Path) -> bool:
    """Whether a folder that could not be linked is about to be there, or there again."""
    return folder.is_dir() or folder.with_name(folder.name + REPLACED).is_dir()


def _files_below(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))


def _number_in(folder: str) -> int:
    """The steps that a checkpoint's URI names; -1 if it is none."""
    found = re.search(r"/step-([0-9]+)[^/]*$", folder)
    return int(found[1]) if found else -1


def _is_same_folder(output: str, work: Path) -> bool:
    return not output.startswith("s3://") and local_path(output) == work
