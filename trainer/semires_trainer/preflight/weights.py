"""Are these files of weights whole, and the right ones? Answered by a few small reads of files of gigabytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semires_trainer.errors import WeightsError
from semires_trainer.fetch.job import BERT, INIT_FROM, VOCAB_FILE
from semires_trainer.fetch.sources import WEIGHT_FILES, ObjectSource, Source, naming
from semires_trainer.publisher import MODEL_FILE
from semires_trainer.storage import RangedFile, Stat, Storage
from semires_trainer.storage.digest import is_error_page, is_sha256
from semires_trainer.storage.failures import ChecksumMismatch

CONFIG_FILE, TENSORS = "config.json", ".safetensors"
READ_WHOLE_BYTES = 32 << 20
"""Up to this size a file is read and hashed: a second at most."""
HEAD_BYTES = 512
LONGEST_HEADER = 100 << 20
"""Of a safetensors file, as its format says."""
ZIP_BEGINS, ZIP_ENDS, ZIP_TAIL_BYTES = b"PK\x03\x04", b"PK\x05\x06", 22 + (1 << 16)
PICKLE_BEGINS = b"\x80"
LFS_POINTER = b"version https://git-lfs"
AGAIN = "Upload the file again, or correct the URI"


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What is known of a file besides its place."""

    sha256: str
    size: int | None = None
    """Bytes; None if nobody said."""


def check_weights(storage: Storage, field: str, source: Source, *, expected: Expected | None) -> list[str]:
    """URIs of files whose sha256 is known and could not be verified here.

    WeightsError for what is no file of weights, is cut short, or lacks a file beside it; ChecksumMismatch.
    """
    unverified = []
    with naming(field, uri_of(source)):
        for stat, wanted in _files_of(storage, field, source, expected):
            remote = storage.open(stat.uri)
            _check_content(remote)
            if wanted is not None and not _is_verified(storage, remote, wanted):
                unverified.append(stat.uri)
    return unverified


def uri_of(source: Source) -> str:
    """Where an input lies."""
    return source.stat.uri if isinstance(source, ObjectSource) else source.uri


def _files_of(
    storage: Storage, field: str, source: Source, expected: Expected | None
) -> Sequence[tuple[Stat, Expected | None]]:
    """The files of weights behind an input, and what is known of each."""
    if isinstance(source, ObjectSource):
        return [] if source.stat.uri.endswith(".txt") else [(source.stat, expected)]
    files = source.files
    if field == INIT_FROM:
        listed = _listed(storage, source.uri, files)
        missing = [name for name in listed if name not in files]
        if missing:
            raise WeightsError(f"{source.uri} lacks {', '.join(missing)}", remedy="Copy the whole model folder again")
        tensors = [name for name in listed if name.endswith(TENSORS)]
        return [(files[name], Expected(sha256=listed[name])) for name in tensors]
    if field == BERT and set(files) == {VOCAB_FILE}:
        return []  # all that a start from a checkpoint reads of it
    name = next((name for name in WEIGHT_FILES if name in files), None)
    if name is None:
        problem = f"the folder {source.uri} holds none of {', '.join(WEIGHT_FILES)}"
        raise WeightsError(problem, remedy="Upload one of them, or correct the URI")
    if field == BERT and CONFIG_FILE not in files:
        raise WeightsError(f"the folder {source.uri} has no {CONFIG_FILE}", remedy="Upload it beside the weights")
    return [(files[name], None)]


def _listed(storage: Storage, uri: str, files: Mapping[str, Stat]) -> dict[str, str]:
    """sha256 by name in the description of a model folder."""
    if MODEL_FILE not in files:
        raise WeightsError(
            f"{uri} is no model folder: it has no {MODEL_FILE}",
            remedy="Give the folder 'model' of a run, or convert an official file with 'semires convert'",
        )
    try:
        listed = json.loads(storage.read_bytes(files[MODEL_FILE].uri).data)["sha256"]
        if not all(is_sha256(digest) for digest in listed.values()):
            raise ValueError("a sha256 is none")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{uri}/{MODEL_FILE} does not describe a model: {error!r}") from error
    return dict(listed)


def _check_content(remote: RangedFile) -> None:
    """WeightsError or ChecksumMismatch unless the file begins and ends like one of weights."""
    uri, size = remote.stat.uri, remote.stat.size
    head = remote.read_range(0, min(HEAD_BYTES, size))
    if is_error_page(head):
        problem = f"{uri} is not the right content: it is a web page or an error message"
        raise ChecksumMismatch(problem, remedy=AGAIN)
    if head.startswith(LFS_POINTER):
        raise WeightsError(f"{uri} is a Git LFS pointer", remedy="Run `git lfs pull`, then upload the file")
    if uri.endswith(TENSORS):
        _check_safetensors(remote, head)
    elif head.startswith(ZIP_BEGINS):
        if ZIP_ENDS not in remote.read_range(max(0, size - ZIP_TAIL_BYTES), size):
            raise WeightsError(f"{uri} is cut short: it has {size} bytes and no end", remedy=AGAIN)
    elif not head.startswith(PICKLE_BEGINS):
        raise WeightsError(f"{uri} is no file of weights: it begins with {head[:8]!r}", remedy=AGAIN)


def _check_safetensors(remote: RangedFile, head: bytes) -> None:
    """The header of a safetensors file tells its size."""
    uri, size = remote.stat.uri, remote.stat.size
    length = int.from_bytes(head[:8], "little")
    try:
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise ValueError("its header is longer than the file")
        header = json.loads(remote.read_range(8, 8 + length))
        header.pop("__metadata__", None)
        told = 8 + length + max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        if told != size:
            raise ValueError(f"it has {size} bytes, its header tells of {told}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise WeightsError(f"{uri} is not a readable safetensors file: {error}", remedy=AGAIN) from error


def _is_verified(storage: Storage, remote: RangedFile, expected: Expected) -> bool:
    """Whether the sha256 is known to be right; ChecksumMismatch if it, or the size, is known to be wrong."""
    uri, size = remote.stat.uri, remote.stat.size
    if expected.size is not None and size != expected.size:
        problem = f"{uri} is not the right content: it has {size} bytes, the file of this sha256 {expected.size}"
        raise ChecksumMismatch(problem, remedy=AGAIN)
    found = storage.stored_sha256(uri)
    if size <= READ_WHOLE_BYTES:
        found = hashlib.sha256(remote.read_range(0, size)).hexdigest()
    if found and found != expected.sha256:
        problem = f"{uri} is not the right content: sha256 {expected.sha256[:12]}… is expected, it has {found[:12]}…"
        raise ChecksumMismatch(problem, remedy="Upload the file again, or correct the URI or the sha256")
    return bool(found)
