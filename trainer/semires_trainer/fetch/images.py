"""The images that a job reads, and no others, from a prefix or an archive."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path

from semires_trainer.config import Resolved
from semires_trainer.data.images import MAX_FILE_BYTES, check_name, check_size
from semires_trainer.data.load import load_dataset
from semires_trainer.data.splits import image_files, refs_in_use, split_dataset
from semires_trainer.errors import DataError
from semires_trainer.fetch.cache import Shelf, check_room, key_of, open_shelf
from semires_trainer.fetch.files import THREADS, Node, plain_etag
from semires_trainer.fetch.sources import FolderSource, ObjectSource, Source
from semires_trainer.fetch.tar import ReadAhead, tar_images
from semires_trainer.fetch.zip import Batch, ZipReader
from semires_trainer.storage import RangedFile, Stat
from semires_trainer.storage.failures import ObjectChanged
from semires_trainer.storage.parallel import in_order

FIELD = "spec.dataset.images"


def images_in_use(resolved: Resolved) -> list[str]:
    """Names of the images of all chosen splits, labelled or not; the annotations of `resolved` are local.

    Raises what loading them raises.
    """
    section = resolved.dataset
    dataset = load_dataset(section)
    split = split_dataset(dataset, section)
    return image_files(dataset, refs_in_use(dataset, split, section.evaluate))


def fetch_images(node: Node, source: Source, names: Sequence[str]) -> Path:
    """The folder that holds at least the images `names`.

    DataError for names that lead out of it, and for images that the source lacks or that are damaged in it.
    """
    if isinstance(source, FolderSource):
        return _fetch_objects(node, source, names)
    return _fetch_members(node, source, names)


def _fetch_objects(node: Node, source: FolderSource, names: Sequence[str]) -> Path:
    """One folder for each prefix: an object that is replaced replaces its file."""
    wanted = find_objects(source, names)
    size = sum(stat.size for stat in wanted.values())
    node.tally.begin(FIELD, source.uri, files=len(wanted), size=size)
    with open_shelf(node.cache / "images" / key_of(source.uri.rstrip("/")), node.should_stop) as shelf:
        missing = {name: stat for name, stat in wanted.items() if not _holds(shelf, name, stat)}
        remaining = sum(stat.size for stat in missing.values())
        node.tally.found(files=len(wanted) - len(missing), size=size - remaining)
        check_room(shelf.folder, remaining, what=source.uri)

        def fetch(item: tuple[str, Stat], _stop: threading.Event) -> None:
            name, stat = item
            blob = node.storage.read_bytes(stat.uri, max_bytes=MAX_FILE_BYTES)
            node.tally.moved(len(blob.data))
            shelf.put(name, blob.data, etag=plain_etag(blob.etag))
            node.tally.finished()

        for _ in in_order(fetch, list(missing.items()), threads=THREADS):
            pass
        return shelf.folder


def find_objects(source: FolderSource, names: Sequence[str]) -> dict[str, Stat]:
    """The objects of the images `names`; DataError as `fetch_images`."""
    check_present([name for name in names if name not in source.files], names, source.uri)
    wanted = {name: source.files[name] for name in names}
    for name, stat in wanted.items():
        check_name(name, source.uri)
        check_size(stat.size, name, source.uri)
    return wanted


def _holds(shelf: Shelf, name: str, stat: Stat) -> bool:
    entry = shelf.get(name)
    return entry is not None and (entry.etag, entry.size) == (plain_etag(stat.etag), stat.size)


def _fetch_members(node: Node, source: ObjectSource, names: Sequence[str]) -> Path:
    """One folder for each content of an archive; what it lacks is taken from the archive."""
    archive = source.stat
    for name in names:
        check_name(name, archive.uri)
    folder = node.cache / "images" / key_of(archive.uri, archive.etag, archive.size)
    node.tally.begin(FIELD, archive.uri, files=len(names), size=0)
    with open_shelf(folder, node.should_stop) as shelf:
        entries = {name: entry for name in names if (entry := shelf.get(name)) is not None}
        node.tally.found(files=len(entries), size=sum(entry.size for entry in entries.values()))
        missing = [name for name in names if name not in entries]
        if missing:
            remote = node.storage.open(archive.uri)
            if remote.stat.etag != archive.etag:
                raise ObjectChanged(f"{archive.uri} was replaced while it was fetched", remedy="Start again")
            reader = ZipReader(remote)
            if zipfile.is_zipfile(reader.file):
                _unzip(node, shelf, reader, missing)
            else:
                _untar(node, shelf, remote, missing)
    return folder


def _unzip(node: Node, shelf: Shelf, reader: ZipReader, names: Sequence[str]) -> None:
    uri = reader.file.stat.uri
    reader.open()
    check_present(reader.missing(names), names, uri)
    batches = reader.batches(names)
    check_room(shelf.folder, sum(batch.size for batch in batches), what=uri)
    node.tally.expect(sum(len(batch.span) for batch in batches))

    def fetch(batch: Batch, _stop: threading.Event) -> None:
        for name, content in reader.read(batch):
            shelf.put(name, content)
            node.tally.finished()
        node.tally.moved(len(batch.span))

    for _ in in_order(fetch, batches, threads=THREADS):
        pass


def _untar(node: Node, shelf: Shelf, remote: RangedFile, names: Sequence[str]) -> None:
    node.tally.expect(remote.stat.size)
    found = set()
    with ReadAhead(remote, on_bytes=node.tally.moved) as stream:
        for name, content in tar_images(stream, names, source=remote.stat.uri):
            shelf.put(name, content)
            if name not in found:
                node.tally.finished()
            found.add(name)
    check_present([name for name in names if name not in found], names, remote.stat.uri)


def check_present(absent: Sequence[str], names: Sequence[str], uri: str) -> None:
    """DataError naming the first images that are not there."""
    if absent:
        problem = f"{len(absent)} of {len(names)} images are not in {uri}, first: {', '.join(absent[:3])}"
        raise DataError(problem, field=FIELD, remedy="Complete the folder or archive")
