"""Tensors to a safetensors file in one pass that writes and hashes.

The bytes are those of `safetensors.torch.save_file`. Here a full disk is an OSError with its number (there a sentence),
and a file is not read again for its sha256. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""In the order of the file, by which the widest come first and all are aligned."""
RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES)}
ALIGNMENT = 8
CHUNK_BYTES = 8 << 20
"""Hashed while it is still in the processor's cache from the copy to the kernel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Digest:
    """What a manifest says of a file."""

    sha256: str
    bytes: int


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> Digest:
    """Write tensors (on the CPU) to a new file and sync it. Raises OSError; KeyError for a dtype of no use here."""
    hasher, size = hashlib.sha256(), 0
    with path.open("xb") as handle:
        for chunk in _chunks(tensors, metadata):
            handle.write(chunk)
            hasher.update(chunk)
            size += len(chunk)
        handle.flush()
        os.fsync(handle.fileno())
    return Digest(sha256=hasher.hexdigest(), bytes=size)


def _chunks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> Iterator[bytes | memoryview]:
    """The file in pieces: length of the header, header, tensors by dtype and name."""
    ordered = sorted(tensors.items(), key=lambda item: (RANKS[item[1].dtype], item[0]))
    header = _header(dict(ordered), metadata)
    yield len(header).to_bytes(8, "little") + header
    for _, tensor in ordered:
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(content), CHUNK_BYTES):
            yield content[start : start + CHUNK_BYTES]


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % ALIGNMENT)
