"""What lies behind the URI of an input: an object, or a folder of objects."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from semires_trainer.errors import DataError, SemiresError
from semires_trainer.storage import Stat, Storage
from semires_trainer.storage.failures import NoSuchKey, explain_os_error

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""As `models.weights.WEIGHT_FILES`: the first that is there is read."""
HUB_FILES = ("config.json", "vocab.txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectSource:
    """One object."""

    stat: Stat


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderSource:
    """Objects below a prefix, by their names relative to it."""

    uri: str
    files: Mapping[str, Stat]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(stat.size for stat in self.files.values())


Source: TypeAlias = ObjectSource | FolderSource


def find_source(storage: Storage, uri: str) -> Source:
    """The object `uri`, else all objects below it; NoSuchKey if there is neither."""
    found = storage.stat(uri)
    if found is not None:
        return ObjectSource(stat=found)
    files = list_folder(storage, uri)
    if not files:
        raise NoSuchKey(f"there is no object {uri} and nothing below {uri.rstrip('/')}/", remedy="Correct the URI")
    return FolderSource(uri=uri, files=files)


def find_object(storage: Storage, uri: str) -> ObjectSource:
    """The object `uri`; NoSuchKey."""
    found = storage.stat(uri)
    if found is None:
        raise NoSuchKey(f"there is no object {uri}", remedy="Upload it, or correct the URI")
    return ObjectSource(stat=found)


def find_files(storage: Storage, alternatives: Iterable[Mapping[str, str]]) -> FolderSource:
    """Named objects as a folder: the first of several sets (name -> URI) whose first object is there; NoSuchKey."""
    missing = []
    for names in alternatives:
        uris = list(names.values())
        first = storage.stat(uris[0])
        if first is None:
            missing.append(uris[0])
            continue
        stats = [first, *(find_object(storage, uri).stat for uri in uris[1:])]
        return FolderSource(uri=uris[0].rpartition("/")[0], files=dict(zip(names, stats, strict=True)))
    raise NoSuchKey(f"there is no object {' and no '.join(missing)}", remedy="Upload it, or correct the URI")


def list_folder(storage: Storage, uri: str, names: Collection[str] | None = None) -> dict[str, Stat]:
    """Name -> object of all below `uri`, or of those in `names`; empty objects that stand for folders are left out."""
    start = len(uri.rstrip("/")) + 1
    listed = ((stat.uri[start:], stat) for stat in storage.list(uri))
    return {name: stat for name, stat in listed if not name.endswith("/") and (names is None or name in names)}


def check_names(source: FolderSource) -> None:
    """DataError for an object whose name would not be a file inside the folder."""
    for name in source.files:
        segments = name.split("/")
        if any(segment in ("", ".", "..") for segment in segments) or any(ord(letter) < 32 for letter in name):
            problem = f"{source.uri} holds an object named {name!r}, which is no file in a folder"
            raise DataError(problem, remedy="Rename or remove it")


def hub_files(files: Mapping[str, Stat]) -> dict[str, Stat]:
    """Of a model folder in the hub's layout what is read: it may hold the same weights for other frameworks too.

    All of it if it holds no file of weights that we know, so that the reader can say so.
    """
    weights = next((name for name in WEIGHT_FILES if name in files), None)
    if weights is None:
        return dict(files)
    return {name: stat for name, stat in files.items() if name in (weights, *HUB_FILES)}


@contextlib.contextmanager
def naming(field: str, uri: str) -> Iterator[None]:
    """Failures name the manifest's `field`, with their reason as it is."""
    try:
        yield
    except SemiresError as error:
        if error.field:
            raise
        raise type(error)(error.message, field=field, remedy=error.remedy) from error
    except OSError as error:
        failure = explain_os_error(error, where=uri)
        raise type(failure)(failure.message, field=field, remedy=failure.remedy) from error
