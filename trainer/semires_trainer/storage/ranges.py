"""Ranges of an object, pinned to its etag."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

from semires_trainer.errors import SemiresError
from semires_trainer.storage.client import S3
from semires_trainer.storage.digest import CHUNK_BYTES
from semires_trainer.storage.failures import StorageUnavailable
from semires_trainer.storage.results import Stat


def receive(
    s3: S3, source: Stat, part: range, write: Callable[[bytes, int], object], *, stop: threading.Event | None = None
) -> None:
    """Call `write(data, position)` for one range in order; a broken connection goes on where it broke.

    Raises ObjectChanged if the object has another etag by now, and what `S3.call` raises.
    """
    bucket, _, key = source.uri.removeprefix("s3://").partition("/")
    position = part.start
    condition = {"IfMatch": source.etag} if source.etag else {}

    def attempt() -> None:
        nonlocal position
        wanted = f"bytes={position}-{part.stop - 1}"
        answer = s3.client.get_object(Bucket=bucket, Key=key, Range=wanted, **condition)
        with closing(answer["Body"]) as body:  # `with` on the body itself gives the stream without its checks
            _check_range(answer, source, position, part.stop)
            while position < part.stop:
                s3.check_stop(stop)
                data = body.read(min(CHUNK_BYTES, part.stop - position))
                if not data:
                    raise StorageUnavailable(f"the answer for {source.uri} was cut short")
                write(data, position)
                position += len(data)

    s3.call(attempt, uri=source.uri, stop=stop, progress=lambda: position)


def read_range(s3: S3, source: Stat, start: int, stop: int) -> bytes:
    """One range in memory; empty ranges are not asked for."""
    received: list[bytes] = []
    if stop > start:
        receive(s3, source, range(start, stop), lambda data, _: received.append(data))
    return b"".join(received)


def _check_range(answer: dict[str, Any], source: Stat, start: int, stop: int) -> None:
    given = answer.get("ContentRange", f"bytes 0-{answer['ContentLength'] - 1}/{answer['ContentLength']}")
    if given != f"bytes {start}-{stop - 1}/{source.size}":
        raise SemiresError(
            f"{source.uri}: asked for bytes {start}-{stop - 1} of {source.size}, the server sent {given}",
            remedy="Use a server that supports ranges",
        )
