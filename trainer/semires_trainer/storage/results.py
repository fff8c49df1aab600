"""What storage operations return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

OnBytes = Callable[[int], None]
"""Is told how many bytes have arrived, since it was last told."""


def ignore_bytes(_count: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stat:
    """An object or file."""

    uri: str
    size: int
    """Bytes."""
    etag: str
    """Names the content at the server; opaque. Empty in listings of files, and where a server has none."""
    sha256: str = ""
    """As our upload recorded it; empty where nobody did, and in listings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """The content of a small object, with the etag that `compare_and_swap` takes."""

    data: bytes
    etag: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """A finished, verified transfer."""

    uri: str
    size: int
    sha256: str
    moved: int
    """Bytes that had to be transferred this time; 0 if the destination already held the content."""
