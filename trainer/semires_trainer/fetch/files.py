"""Objects and folders of objects, whole and verified, under names that change with their content."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from semires_trainer.atomic import sync_directory
from semires_trainer.fetch.cache import Entry, Shelf, check_room, file_size, key_of, locked, open_shelf
from semires_trainer.fetch.progress import Tally
from semires_trainer.fetch.sources import FolderSource, ObjectSource, check_names
from semires_trainer.storage import Stat, Storage
from semires_trainer.storage.digest import is_error_page
from semires_trainer.storage.failures import ChecksumMismatch, ObjectChanged
from semires_trainer.storage.parallel import in_order

THREADS = 16
"""Small objects in flight: each is a question and an answer."""
SMALL_BYTES = 8 * 2**20
"""Objects up to this size are one request and are read into memory; larger ones are resumed where they broke off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """This node: the storage it reads, its cache, the tally, and when to stop."""

    storage: Storage
    cache: Path
    tally: Tally
    should_stop: Callable[[], bool]


def fetch_object(node: Node, field: str, source: ObjectSource, *, sha256: str | None = None) -> Path:
    """The local copy of one object, checked against `sha256` even if it was here already."""
    found = source.stat
    name = PurePosixPath(found.uri).name
    folder = node.cache / "files" / key_of(found.uri, found.etag, found.size)
    node.tally.begin(field, found.uri, files=1, size=found.size)
    with locked(folder.with_name(f".{folder.name}.lock"), node.should_stop):
        if sha256 is None and file_size(folder / name) == found.size:
            node.tally.found(files=1, size=found.size)
            return folder / name
        moved = node.storage.download(found.uri, folder / name, sha256=sha256, on_bytes=node.tally.moved).moved
        if moved == 0 and found.size > 0:
            node.tally.found(files=1, size=found.size)
            return folder / name
        node.tally.finished()
    _check_same(node.storage, found)
    return folder / name


def fetch_folder(node: Node, field: str, source: FolderSource) -> Path:
    """The local copy of a folder; under its name nothing is ever missing. DataError for names that lead out of it."""
    check_names(source)
    key = key_of(source.uri, sorted((name, stat.etag, stat.size) for name, stat in source.files.items()))
    final = node.cache / "folders" / key
    node.tally.begin(field, source.uri, files=len(source.files), size=source.size)
    with open_shelf(final.with_name(f".{key}.part"), node.should_stop) as shelf:
        if final.is_dir():
            node.tally.found(files=len(source.files), size=source.size)
            shelf.folder.rmdir()
            return final
        _fill(node, shelf, source)
        shelf.commit()
        os.rename(shelf.folder, final)
        sync_directory(final.parent)
        shelf.forget()
    return final


def _fill(node: Node, shelf: Shelf, source: FolderSource) -> None:
    missing = {name: stat for name, stat in source.files.items() if shelf.get(name) is None}
    size = sum(stat.size for stat in missing.values())
    node.tally.found(files=len(source.files) - len(missing), size=source.size - size)
    check_room(shelf.folder, size, what=source.uri)

    def fetch(item: tuple[str, Stat], _stop: threading.Event) -> None:
        name, stat = item
        if stat.size > SMALL_BYTES:
            node.storage.download(stat.uri, shelf.folder / name, on_bytes=node.tally.moved)
            _check_same(node.storage, stat)
            shelf.add(name, Entry(size=stat.size, etag=stat.etag))
            shelf.commit()
        else:
            shelf.put(name, read_small(node, stat), etag=stat.etag)
        node.tally.finished()

    for _ in in_order(fetch, list(missing.items()), threads=THREADS):
        pass


def read_small(node: Node, stat: Stat) -> bytes:
    """The content of a small object; ObjectChanged if it is not the listed one, ChecksumMismatch for an error page."""
    blob = node.storage.read_bytes(stat.uri, max_bytes=max(SMALL_BYTES, stat.size))
    if plain_etag(blob.etag) != plain_etag(stat.etag):
        raise _changed(stat)
    if is_error_page(blob.data[:512]):
        problem = f"{stat.uri} is not the right content: it is a web page or an error message"
        raise ChecksumMismatch(problem, remedy="Upload the file again, or correct the URI")
    node.tally.moved(len(blob.data))
    return blob.data


def plain_etag(etag: str) -> str:
    """Without the quotes, which some servers leave out in listings."""
    return etag.strip('"')


def _check_same(storage: Storage, source: Stat) -> None:
    """The name says which etag this is: it must still have been that one while it was fetched."""
    now = storage.stat(source.uri)
    if now is None or plain_etag(now.etag) != plain_etag(source.etag):
        raise _changed(source)


def _changed(source: Stat) -> ObjectChanged:
    return ObjectChanged(f"{source.uri} was replaced while it was fetched", remedy="Start again")
