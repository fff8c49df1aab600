"""sha256 of files and of what has arrived of them; what an error page looks like."""

from __future__ import annotations

import os
import re
from typing import Any

from semires_trainer.errors import ConfigError

CHUNK_BYTES = 2**20
_HEX = re.compile(r"[0-9a-f]{64}")
_PAGE = re.compile(
    rb"^(\xef\xbb\xbf)?\s*(<!doctype html|<html|<\?xml[^>]*>\s*<(error|html|!doctype html))", re.IGNORECASE
)


def is_sha256(text: str) -> bool:
    """Whether this is a sha256 in lower-case hexadecimal digits."""
    return _HEX.fullmatch(text) is not None


def checked_sha256(text: str | None, *, field: str = "sha256") -> str | None:
    """`text` in lower case; ConfigError if it is no sha256."""
    if text is None or is_sha256(text.lower()):
        return text and text.lower()
    raise ConfigError(f"{text!r} is not a sha256", field=field, remedy="Give 64 hexadecimal digits")


def hash_range(digest: Any, descriptor: int, part: range, buffer: memoryview) -> None:
    """Feed bytes `part` of an open file to `digest`; OSError if the file is shorter."""
    position = part.start
    while position < part.stop:
        count = os.preadv(descriptor, [buffer[: part.stop - position]], position)
        if count == 0:
            raise OSError("the file became shorter while it was read")
        digest.update(buffer[:count])
        position += count


def is_error_page(head: bytes) -> bool:
    """Whether content begins like a web page or an S3 error in place of data."""
    return _PAGE.match(head) is not None
