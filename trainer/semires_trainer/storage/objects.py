"""Single requests: what is there, what is in it, and writes that hold only under a condition."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from botocore.exceptions import ClientError

from semires_trainer.errors import StorageDenied
from semires_trainer.storage.client import S3
from semires_trainer.storage.digest import is_sha256
from semires_trainer.storage.failures import ChecksumMismatch, NoSuchKey, NotSupported, ObjectChanged, TooLarge
from semires_trainer.storage.results import Blob, Stat
from semires_trainer.storage.uri import Location

logger = logging.getLogger(__name__)

SHA256 = "sha256"
"""Key of our checksum in an object's metadata."""


def stat_object(s3: S3, location: Location) -> Stat | None:
    """Size, etag and recorded sha256, or None where there is no such object."""
    where = {"Bucket": location.bucket, "Key": location.key}
    try:
        answer = s3.call(lambda: _head(s3.client, where), uri=str(location))
    except NoSuchKey:
        return None
    return Stat(
        uri=str(location),
        size=int(answer["ContentLength"]),
        etag=str(answer.get("ETag", "")),
        sha256=_recorded_sha256(answer),
    )


def existing_object(s3: S3, location: Location) -> Stat:
    """As `stat_object`; NoSuchKey where there is none."""
    found = stat_object(s3, location)
    if found is None:
        raise NoSuchKey(f"there is no object {location}", remedy="Upload it, or correct the URI")
    return found


def stored_sha256(s3: S3, location: Location) -> str:
    """sha256 of the whole content, as the server keeps it or else as our upload recorded it; empty if neither does.

    A server keeps it for what was sent in one piece with that checksum. One that refuses the question has none.
    """
    where = {"Bucket": location.bucket, "Key": location.key}
    try:
        answer = s3.call(lambda: s3.client.head_object(**where, ChecksumMode="ENABLED"), uri=str(location))
    except StorageDenied:
        answer = s3.call(lambda: _head(s3.client, where), uri=str(location))
    return _checksum_of_all(answer) or _recorded_sha256(answer)


def _checksum_of_all(answer: dict[str, Any]) -> str:
    """The server's sha256 in hexadecimal digits; empty for one that was made of the checksums of parts."""
    try:
        digest = base64.b64decode(str(answer.get("ChecksumSHA256", "")), validate=True)
    except binascii.Error:  # "<checksum>-<number of parts>"
        return ""
    is_whole = (
        answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT" and len(digest) == hashlib.sha256().digest_size
    )
    return digest.hex() if is_whole else ""


def _recorded_sha256(answer: dict[str, Any]) -> str:
    recorded = str(answer.get("Metadata", {}).get(SHA256, ""))
    return recorded if is_sha256(recorded) else ""


def _head(client: Any, where: dict[str, str]) -> Any:
    """HeadObject. A refusal of HEAD has no body, so a GET of one byte asks what it meant."""
    try:
        return client.head_object(**where)
    except ClientError as error:
        if int(error.response["ResponseMetadata"]["HTTPStatusCode"]) < 500:
            client.get_object(**where, Range="bytes=0-0")["Body"].close()
        raise


def list_objects(s3: S3, location: Location) -> Iterator[Stat]:
    """All objects below `location` as a folder, in order of their keys; not the marks of folders that consoles make."""
    page: dict[str, Any] = {"Bucket": location.bucket, "Prefix": location.folder_key}
    while True:
        answer = s3.call(lambda page=page: s3.client.list_objects_v2(**page), uri=str(location))  # type: ignore[misc]
        for entry in answer.get("Contents", ()):
            uri = f"s3://{location.bucket}/{entry['Key']}"
            if not uri.endswith("/"):
                yield Stat(uri=uri, size=int(entry["Size"]), etag=str(entry.get("ETag", "")))
        if not answer.get("IsTruncated"):
            return
        page = {**page, "ContinuationToken": answer["NextContinuationToken"]}


def read_object(s3: S3, location: Location, *, max_bytes: int) -> Blob:
    """The whole content, compared with its recorded sha256; TooLarge beyond `max_bytes`, ChecksumMismatch."""

    def read() -> Blob:
        answer = s3.client.get_object(Bucket=location.bucket, Key=location.key)
        with closing(answer["Body"]) as body:
            if int(answer["ContentLength"]) > max_bytes:
                raise TooLarge(f"{location} has {answer['ContentLength']} bytes, at most {max_bytes} are expected")
            data = body.read()
        recorded = _recorded_sha256(answer)
        if recorded and hashlib.sha256(data).hexdigest() != recorded:
            problem = f"{location} is not the right content: sha256 {recorded[:12]}… is recorded with it"
            raise ChecksumMismatch(problem, remedy="Upload the file again")
        return Blob(data=data, etag=str(answer.get("ETag", "")))

    return s3.call(read, uri=str(location))


def delete_object(s3: S3, location: Location) -> None:
    """Remove an object; one that is not there is no error."""
    s3.call(lambda: s3.client.delete_object(Bucket=location.bucket, Key=location.key), uri=str(location))


class Conditions:
    """Writes under a condition, and whether each bucket's server keeps to them."""

    def __init__(self, s3: S3) -> None:
        self._s3 = s3
        self._honoured: dict[str, bool] = {}

    def put_if_absent(self, location: Location, data: bytes) -> str | None:
        """Write unless other content is there; the etag, or None if another was first."""
        if stat_object(self._s3, location) is not None:
            return self._etag_of_ours(location, data)
        return self._write(location, data, {"IfNoneMatch": "*"})

    def compare_and_swap(self, location: Location, data: bytes, *, etag: str) -> str | None:
        """Replace what has this etag; the new etag, or None if it has another by now."""
        found = stat_object(self._s3, location)
        if found is None or found.etag != etag:
            return self._etag_of_ours(location, data)
        return self._write(location, data, {"IfMatch": etag})

    def _write(self, location: Location, data: bytes, condition: dict[str, str]) -> str | None:
        if not self._honoured.get(location.bucket, True):
            condition = {}
        try:
            etag = self._put(location, data, condition)
        except (ObjectChanged, NoSuchKey):
            return self._etag_of_ours(location, data)
        except NotSupported:
            self._warn(location)
            return self._put(location, data, {})
        if location.bucket not in self._honoured:
            self._probe(location, data)
        return etag

    def _put(self, location: Location, data: bytes, condition: dict[str, str]) -> str:
        target = {"Bucket": location.bucket, "Key": location.key, "Body": data, **condition}
        return str(self._s3.call(lambda: self._s3.client.put_object(**target), uri=str(location))["ETag"])

    def _etag_of_ours(self, location: Location, data: bytes) -> str | None:
        """The etag if our own write, whose answer was lost, is what stands there."""
        try:
            found = read_object(self._s3, location, max_bytes=len(data))
        except (NoSuchKey, TooLarge):
            return None
        return found.etag if found.data == data else None

    def _probe(self, location: Location, data: bytes) -> None:
        """Once per bucket: the same bytes again, only if absent. A server that takes them ignores conditions."""
        try:
            self._put(location, data, {"IfNoneMatch": "*"})
        except ObjectChanged:
            self._honoured[location.bucket] = True
        else:
            self._warn(location)

    def _warn(self, location: Location) -> None:
        self._honoured[location.bucket] = False
        logger.warning(
            "The server of bucket %s does not support conditional writes: two jobs that write the same output at the "
            "same moment are not kept apart.",
            location.bucket,
        )
