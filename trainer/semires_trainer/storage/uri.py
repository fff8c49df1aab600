"""Where a thing lies: s3://bucket/key, file:///path or a plain path, parsed once and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from semires_trainer.errors import ConfigError

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_FORMS = "Give s3://bucket/key, file:///folder/file or a path"
LONGEST_KEY_BYTES = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """A parsed URI."""

    scheme: Literal["s3", "file"]
    bucket: str = ""
    """Bucket; empty for files."""
    key: str
    """Key without a leading slash, or the path of a file."""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}" if self.scheme == "s3" else self.key

    @property
    def path(self) -> Path:
        """The path of a file."""
        return Path(self.key)

    @property
    def folder_key(self) -> str:
        """Prefix of everything below: the key with one slash at its end; empty for a whole bucket."""
        return f"{self.key.rstrip('/')}/" if self.key else ""

    def child(self, name: str) -> Location:
        """`name` below this one, as a folder."""
        key = f"{self.folder_key}{name}" if self.scheme == "s3" else str(self.path / name)
        return replace(self, key=key)


def parse_uri(text: str, *, field: str = "") -> Location:
    """A location; ConfigError for other schemes, `..`, empty path segments, control characters, bad buckets."""
    if not text or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise ConfigError(f"the URI {text!r} is empty or has control characters", field=field, remedy=_FORMS)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Location(scheme="file", key=str(Path(text).expanduser()))
    if scheme == "file":
        if not rest.startswith("/"):
            raise ConfigError(f"{text} is not an absolute path", field=field, remedy="Write file:///folder/file")
        return Location(scheme="file", key=rest)
    if scheme == "hf":
        problem = f"{text} can only be read as starting weights of spec.model"
        raise ConfigError(problem, field=field, remedy=_FORMS)
    if scheme != "s3":
        raise ConfigError(f"the scheme of {scheme}://… is not supported", field=field, remedy=_FORMS)
    return _parse_s3(text, rest, field=field)


def _parse_s3(text: str, rest: str, *, field: str) -> Location:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        problem = f"{bucket!r} in {text} is not a bucket name" if "@" not in bucket else "a URI must not hold a login"
        remedy = "Give s3://bucket/key; a bucket has 3 to 63 lower-case letters, digits, dots and dashes"
        raise ConfigError(problem, field=field, remedy=remedy)
    segments = key.removesuffix("/").split("/") if key else []
    if any(segment in ("", ".", "..") for segment in segments):
        raise ConfigError(f"{text} has an empty, '.' or '..' segment", field=field, remedy="Write the key plainly")
    if len(key.encode()) > LONGEST_KEY_BYTES:
        raise ConfigError(f"the key of s3://{bucket}/… is longer than {LONGEST_KEY_BYTES} bytes", field=field)
    return Location(scheme="s3", bucket=bucket, key=key)
