"""Reading safetensors files as memory-mapped numpy arrays, without copying.

The safetensors package copies on read for numpy; stores and caches look at a few kilobytes of files of
hundreds of megabytes, from many processes at once, so they map the file instead. Layout (safetensors format):
8 bytes little-endian length N, N bytes of JSON header {name: {dtype, shape, data_offsets}}, then the data.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from semires_trainer.atomic import replace_file
from semires_trainer.errors import DataError

Arrays = dict[str, NDArray[Any]]

_DTYPES = {"U8": np.uint8, "I32": np.int32, "I64": np.int64, "F32": np.float32}
_MAX_HEADER_BYTES = 1 << 20


def map_tensors(path: Path, *, expected: dict[str, str]) -> Arrays:
    """Map the arrays of a safetensors file, read-only.

    `expected` maps each required name to its safetensors dtype ("U8", "I32", "I64", "F32"). DataError if the
    file is cut short, its header is damaged, or an array is missing or of another type.
    """
    try:
        with path.open("rb") as handle:
            view = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        header, start = _parse_header(view)
        return {name: _array(view, header[name], dtype, start) for name, dtype in expected.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def save_tensors(path: Path, arrays: Arrays) -> None:
    """Write a safetensors file atomically."""
    with replace_file(path) as temporary:
        temporary.write_bytes(save(arrays))


def save_by_content(folder: Path, arrays: Arrays) -> Path:
    """Write `<sha256 of the file>.safetensors` into `folder` atomically; doing it twice is harmless."""
    content = save(arrays)
    path = folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
    if not path.exists():
        with replace_file(path) as temporary:
            temporary.write_bytes(content)
    return path


def damaged(path: Path, problem: str) -> DataError:
    """The error for a file that is not what we once wrote."""
    remedy = "Delete this file; the next run makes what is missing again."
    return DataError(f"{path} is damaged ({problem})", remedy=remedy)


def _parse_header(view: mmap.mmap) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(view[:8], "little")
    if len(view) < 8 or length > min(_MAX_HEADER_BYTES, len(view) - 8):
        raise ValueError("its header is longer than the file")
    header: dict[str, Any] = json.loads(view[8 : 8 + length])
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != len(view):
        raise ValueError(f"it has {len(view)} bytes, its header tells of {8 + length + end}")
    return header, 8 + length


def _array(view: mmap.mmap, entry: dict[str, Any], dtype: str, start: int) -> NDArray[Any]:
    begin, end = entry["data_offsets"]
    shape = tuple(int(n) for n in entry["shape"])
    item = np.dtype(_DTYPES[dtype])
    count = math.prod(shape)
    fits = min((begin, *shape)) >= 0 and end - begin == count * item.itemsize
    if entry["dtype"] != dtype or not fits:
        raise ValueError(f"an array is of type {entry['dtype']} and shape {shape}, {dtype} expected")
    return np.frombuffer(view, dtype=item, count=count, offset=start + begin).reshape(shape)
