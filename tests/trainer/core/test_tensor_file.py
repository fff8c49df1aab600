"""Files of tensors: the bytes that safetensors writes, an error of the disk as it is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from semires_trainer.tensor_file import CHUNK_BYTES, DTYPES, write_tensors


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    """Every dtype; scalars, empty tensors, other strides, names that JSON must escape, one of several chunks."""
    torch.manual_seed(0)
    found = {"long": torch.randn(CHUNK_BYTES // 4 + 5), "strided": torch.randn(2, 3, 4, 5)}
    found["strided"] = found["strided"].to(memory_format=torch.channels_last)
    for number, dtype in enumerate(DTYPES):
        found[f'{number}/ä"\\'] = torch.arange(7 + number).to(dtype)
        found[f"scalar{number}"] = torch.ones((), dtype=dtype)
        found[f"empty{number}"] = torch.zeros(0, 3, dtype=dtype)
    return found


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=["without-metadata", "with-metadata"])
def test_the_bytes_are_those_of_safetensors(
    tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None
) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs", metadata=metadata)

    digest = write_tensors(tmp_path / "ours", tensors, metadata=metadata)

    ours = (tmp_path / "ours").read_bytes()
    assert ours == (tmp_path / "theirs").read_bytes()
    assert (digest.sha256, digest.bytes) == (hashlib.sha256(ours).hexdigest(), len(ours))
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(tmp_path / "ours").items())


def test_a_disk_without_room_is_an_os_error(tmp_path: Path, tensors: dict[str, Tensor], states: ModuleType) -> None:
    with states.file_size_limit(4096), pytest.raises(OSError, match="File too large"):
        write_tensors(tmp_path / "ours", tensors)
