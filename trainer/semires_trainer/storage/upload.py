"""A file into an object: parts in parallel, resumed after an interruption, verified at the end.

Each part is signed with its sha256, which the server checks. The sha256 of the whole is stored as metadata.
`.NAME.upload` beside the file names a multipart upload under way, so that it goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semires_trainer.atomic import file_sha256
from semires_trainer.errors import SemiresError
from semires_trainer.storage.client import S3
from semires_trainer.storage.failures import ChecksumMismatch, ObjectChanged, UploadVanished, explain_os_error
from semires_trainer.storage.journal import Journal, locked_journal
from semires_trainer.storage.objects import SHA256, stat_object
from semires_trainer.storage.parallel import in_order, split
from semires_trainer.storage.results import Transfer
from semires_trainer.storage.settings import MIB
from semires_trainer.storage.uri import Location

logger = logging.getLogger(__name__)

MOST_PARTS = 10_000
"""Limit of S3 for one object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file that is uploaded, as it was when its sha256 was taken."""

    path: Path
    size: int
    sha256: str
    modified_ns: int

    @classmethod
    def of(cls, path: Path, *, sha256: str | None, location: Location) -> Source:
        """Hash `path`; ChecksumMismatch if it is not what `sha256` says."""
        before = path.stat()
        found = file_sha256(path)
        if sha256 and found != sha256:
            problem = f"{path} is damaged: sha256 {sha256[:12]}… is expected, it has {found[:12]}…"
            raise ChecksumMismatch(problem, remedy=f"It was not uploaded to {location}; write it again")
        return cls(path=path, size=before.st_size, sha256=found, modified_ns=before.st_mtime_ns)

    def check_unchanged(self) -> None:
        """ObjectChanged if the file was written to since."""
        now = self.path.stat()
        if (now.st_size, now.st_mtime_ns) != (self.size, self.modified_ns):
            raise ObjectChanged(f"{self.path} was changed while it was uploaded", remedy="Start again")


def upload_object(s3: S3, path: Path, location: Location, *, sha256: str | None) -> Transfer:
    """Make `location` hold the content of `path`; an object with the same sha256 and size is left as it is.

    Raises NoSuchKey without such a file, ChecksumMismatch, ObjectChanged, and what `S3.call` raises. Until it is
    complete nothing is visible under the final name.
    """
    try:
        if sha256 and _is_there(s3, location, path.stat().st_size, sha256):
            return Transfer(uri=str(location), size=path.stat().st_size, sha256=sha256, moved=0)
        source = Source.of(path, sha256=sha256, location=location)
        if not sha256 and _is_there(s3, location, source.size, source.sha256):
            return Transfer(uri=str(location), size=source.size, sha256=source.sha256, moved=0)
        moved = source.size
        if source.size <= s3.settings.upload_part_bytes:
            _put(s3, source, location)
        else:
            with _journal(path) as journal:
                moved = _Multipart(s3, source, location, journal).run()
    except OSError as error:
        raise explain_os_error(error, where=str(path)) from error
    _verify(s3, source, location)
    return Transfer(uri=str(location), size=source.size, sha256=source.sha256, moved=moved)


def _is_there(s3: S3, location: Location, size: int, sha256: str) -> bool:
    found = stat_object(s3, location)
    return found is not None and (found.size, found.sha256) == (size, sha256)


def _put(s3: S3, source: Source, location: Location) -> None:
    data = source.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise ObjectChanged(f"{source.path} was changed while it was uploaded", remedy="Start again")
    target = {"Bucket": location.bucket, "Key": location.key, "Metadata": {SHA256: source.sha256}}
    s3.call(lambda: s3.client.put_object(**target, Body=data), uri=str(location))


def _verify(s3: S3, source: Source, location: Location) -> None:
    found = stat_object(s3, location)
    if found is None or found.size != source.size or found.sha256 not in ("", source.sha256):
        problem = f"{location} is not what was uploaded from {source.path}"
        raise ObjectChanged(problem, remedy="Another process writes the same object; give each its own")
    if not found.sha256:
        logger.warning("The server of %s keeps no metadata: later downloads cannot be verified by it.", location)


@contextlib.contextmanager
def _journal(path: Path) -> Iterator[Journal | None]:
    """The journal beside a file, or None where the folder cannot be written: then nothing is resumed."""
    if os.access(path.parent, os.W_OK):
        with locked_journal(path.with_name(f".{path.name}.upload")) as journal:
            yield journal
    else:
        yield None


class _Multipart:
    """One multipart upload."""

    def __init__(self, s3: S3, source: Source, location: Location, journal: Journal | None) -> None:
        self._s3, self._source, self._location, self._journal = s3, source, location, journal
        self._target = {"Bucket": location.bucket, "Key": location.key}
        least = -(-source.size // MOST_PARTS)
        self._parts = split(source.size, max(s3.settings.upload_part_bytes, -(-least // MIB) * MIB))

    def run(self) -> int:
        """Upload and complete; bytes sent this time."""
        for _ in range(2):
            upload, present = self._begin()
            try:
                return self._send(upload, present)
            except UploadVanished:
                if _is_there(self._s3, self._location, self._source.size, self._source.sha256):
                    return self._source.size  # completed; only the answer was lost
                if self._journal is not None:
                    self._journal.restart({})
        raise UploadVanished(f"the upload of {self._location} was aborted twice", remedy="Start again")

    def _begin(self) -> tuple[str, dict[int, str]]:
        """Id of the upload that this file began earlier, with the etags of its parts, or of a new one."""
        header = {"uri": str(self._location), "sha256": self._source.sha256, "part_bytes": len(self._parts[0])}
        earlier = dict(self._journal.header) if self._journal else {}
        upload = str(earlier.pop("upload", ""))
        if upload and earlier == header:
            with contextlib.suppress(UploadVanished):
                return upload, self._present(upload)
        metadata = {SHA256: self._source.sha256}
        answer = self._call(lambda: self._s3.client.create_multipart_upload(**self._target, Metadata=metadata))
        upload = str(answer["UploadId"])
        if self._journal is not None:
            self._journal.restart({**header, "upload": upload})
        return upload, {}

    def _present(self, upload: str) -> dict[int, str]:
        """Etags of the parts at the server that have our content, by number from 1."""
        found: dict[int, str] = {}
        page: dict[str, Any] = {**self._target, "UploadId": upload}
        while True:
            answer = self._call(lambda page=page: self._s3.client.list_parts(**page))
            for entry in answer.get("Parts", ()):
                number, etag = int(entry["PartNumber"]), str(entry["ETag"])
                if number <= len(self._parts) and self._etag(number) == etag.strip('"'):
                    found[number] = etag
            if not answer.get("IsTruncated"):
                return found
            page = {**page, "PartNumberMarker": answer["NextPartNumberMarker"]}

    def _etag(self, number: int) -> str:
        return hashlib.md5(self._read(number), usedforsecurity=False).hexdigest()

    def _read(self, number: int) -> bytes:
        part = self._parts[number - 1]
        with self._source.path.open("rb") as handle:
            handle.seek(part.start)
            return handle.read(len(part))

    def _send(self, upload: str, present: dict[int, str]) -> int:
        missing = [number for number in range(1, len(self._parts) + 1) if number not in present]

        def send(number: int, stop: threading.Event) -> str:
            part = {**self._target, "UploadId": upload, "PartNumber": number, "Body": self._read(number)}
            return str(self._call(lambda: self._s3.client.upload_part(**part), stop)["ETag"])

        etags = in_order(send, missing, threads=self._s3.settings.transfers)
        complete = {**present, **dict(zip(missing, etags, strict=True))}
        self._source.check_unchanged()
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(complete.items())]
        target = {**self._target, "UploadId": upload, "MultipartUpload": {"Parts": parts}}
        self._call(lambda: self._s3.client.complete_multipart_upload(**target))
        self._abort_others()
        return sum(len(self._parts[number - 1]) for number in missing)

    def _abort_others(self) -> None:
        """End uploads of the same key that were given up; a server that forbids it cleans up by its own rule."""
        with contextlib.suppress(SemiresError):
            bucket, key = self._location.bucket, self._location.key
            answer = self._call(lambda: self._s3.client.list_multipart_uploads(Bucket=bucket, Prefix=key))
            for entry in answer.get("Uploads", ()):
                if entry["Key"] == key:
                    orphan = {**self._target, "UploadId": entry["UploadId"]}
                    self._call(lambda orphan=orphan: self._s3.client.abort_multipart_upload(**orphan))

    def _call(self, action: Any, stop: threading.Event | None = None) -> Any:
        return self._s3.call(action, uri=str(self._location), stop=stop)
