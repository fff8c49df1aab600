"""The operations on S3, bound to one client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from semires_trainer.errors import ConfigError
from semires_trainer.storage import objects
from semires_trainer.storage.client import S3
from semires_trainer.storage.download import download_object
from semires_trainer.storage.ranged_file import RangedFile
from semires_trainer.storage.ranges import read_range
from semires_trainer.storage.results import Blob, OnBytes, Stat, Transfer
from semires_trainer.storage.settings import StorageSettings
from semires_trainer.storage.upload import upload_object
from semires_trainer.storage.uri import Location


class ObjectStore:
    """An S3 service; see `Storage` for what the methods do."""

    def __init__(self, s3: S3) -> None:
        self._s3 = s3
        self._conditions = objects.Conditions(s3)

    @classmethod
    def of(cls, settings: StorageSettings) -> ObjectStore:
        """With a client of its own."""
        return cls(S3(settings))

    def stopping(self, should_stop: Callable[[], bool]) -> ObjectStore:
        """The same client, whose calls raise Cancelled once `should_stop()` is true."""
        return ObjectStore(self._s3.stopping(should_stop))

    def stat(self, location: Location) -> Stat | None:
        return objects.stat_object(self._s3, location) if _is_object(location) else None

    def stored_sha256(self, location: Location) -> str:
        return objects.stored_sha256(self._s3, _object(location))

    def list(self, location: Location) -> Iterator[Stat]:
        return objects.list_objects(self._s3, location)

    def download(self, location: Location, destination: Path, *, sha256: str | None, on_bytes: OnBytes) -> Transfer:
        return download_object(self._s3, _object(location), destination, sha256=sha256, on_bytes=on_bytes)

    def open(self, location: Location) -> RangedFile:
        found = objects.existing_object(self._s3, _object(location))
        return RangedFile(found, partial(read_range, self._s3, found))

    def upload(self, path: Path, location: Location, *, sha256: str | None) -> Transfer:
        return upload_object(self._s3, path, _object(location), sha256=sha256)

    def read_bytes(self, location: Location, *, max_bytes: int) -> Blob:
        return objects.read_object(self._s3, _object(location), max_bytes=max_bytes)

    def put_if_absent(self, location: Location, data: bytes) -> str | None:
        return self._conditions.put_if_absent(_object(location), data)

    def compare_and_swap(self, location: Location, data: bytes, *, etag: str) -> str | None:
        return self._conditions.compare_and_swap(_object(location), data, etag=etag)

    def close(self) -> None:
        self._s3.client.close()

    def delete(self, location: Location) -> None:
        objects.delete_object(self._s3, _object(location))


def _is_object(location: Location) -> bool:
    return bool(location.key) and not location.key.endswith("/")


def _object(location: Location) -> Location:
    """`location` if it can name an object; ConfigError for a bucket or a folder."""
    if _is_object(location):
        return location
    raise ConfigError(f"{location} names a folder, an object is needed", remedy="Add the object's name")
