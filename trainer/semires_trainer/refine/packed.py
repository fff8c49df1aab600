"""Bit-packed masks: one bit a pixel, 28.8 KB for 480 x 480, and the two things refinement asks of them.

Layout: `numpy.packbits(mask, axis=-1)`, most significant bit left; the width is a multiple of 32.
On a CPU the bits are counted where they lie (numpy reads the tensor's memory); on a GPU by tensor operations
that never wait for the device. Both count exactly.

Shapes: B samples, P proposals of all samples, H height, W width, W8 = W / 8.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

_WORD_PIXELS = 32
_ONES, _TWOS, _FOURS = 0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F
_BYTE_SUM = 0x0101010101010101


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProposalBatch:
    """The proposals of a batch of samples, those of sample 0 first; build it with `stack` or `empty`."""

    packed_PHW8: Tensor
    """uint8, contiguous, bit-packed along the width."""
    sample_index_P: Tensor
    """int64, ascending: the sample that each proposal belongs to."""
    area_P: Tensor
    """int64: pixels of each proposal at H x W."""
    counts: tuple[int, ...]
    """Proposals of each sample, known without asking the device."""

    def __post_init__(self) -> None:
        total = sum(self.counts)
        lengths = (self.packed_PHW8.shape[0], self.sample_index_P.shape[0], self.area_P.shape[0])
        if self.packed_PHW8.dim() != 3 or self.packed_PHW8.dtype != torch.uint8 or lengths != (total,) * 3:
            found = f"{tuple(self.packed_PHW8.shape)} {self.packed_PHW8.dtype}, lengths {lengths}"
            raise ValueError(f"proposals: expected {total} packed masks, indices and areas, got {found}")

    @classmethod
    def stack(cls, samples: Sequence[tuple[Tensor, Tensor]]) -> ProposalBatch:
        """Join (packed_KHW8 uint8, area_K int64) of each sample; K may be 0.

        Raises ValueError for 0 samples: nothing would tell their size.
        """
        if not samples:
            raise ValueError("proposals: cannot stack 0 samples; use ProposalBatch.empty")
        counts = tuple(packed.shape[0] for packed, _ in samples)
        return cls(
            packed_PHW8=torch.cat([packed for packed, _ in samples]),
            sample_index_P=torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
            area_P=torch.cat([area for _, area in samples]).to(torch.int64),
            counts=counts,
        )

    @classmethod
    def empty(cls, *, samples: int, height: int, width: int) -> ProposalBatch:
        """`samples` samples without any proposal."""
        none = torch.zeros(0, dtype=torch.int64)
        packed = torch.zeros((0, height, packed_width(width)), dtype=torch.uint8)
        return cls(packed_PHW8=packed, sample_index_P=none, area_P=none.clone(), counts=(0,) * samples)

    @property
    def samples(self) -> int:
        """Number of samples, those without proposals included."""
        return len(self.counts)

    @property
    def starts(self) -> tuple[int, ...]:
        """Position of the first proposal of each sample, and the end of the last sample."""
        return (0, *itertools.accumulate(self.counts))

    @property
    def position_P(self) -> Tensor:
        """int64: position of each proposal within its sample."""
        start_P = torch.searchsorted(self.sample_index_P, self.sample_index_P)
        return torch.arange(self.area_P.shape[0], device=start_P.device) - start_P

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> ProposalBatch:
        """The same batch on another device."""
        return self._with(*(tensor.to(device, non_blocking=non_blocking) for tensor in self._tensors()))

    def pin_memory(self) -> ProposalBatch:
        """Called by a DataLoader that pins its batches."""
        return self._with(*(tensor.pin_memory() for tensor in self._tensors()))

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.packed_PHW8, self.sample_index_P, self.area_P

    def _with(self, packed: Tensor, sample_index: Tensor, area: Tensor) -> ProposalBatch:
        return ProposalBatch(packed_PHW8=packed, sample_index_P=sample_index, area_P=area, counts=self.counts)


def packed_width(width: int) -> int:
    """Bytes of a row of `width` pixels. Raises ValueError unless the width is a multiple of 32."""
    if width <= 0 or width % _WORD_PIXELS:
        raise ValueError(f"packed masks need a width that is a multiple of {_WORD_PIXELS}, got {width}")
    return width // 8


@overload
def pack(mask: Tensor) -> Tensor: ...
@overload
def pack(mask: Array) -> Array: ...
def pack(mask: Tensor | Array) -> Tensor | Array:
    """Boolean masks (..., H, W) to uint8 (..., H, W/8), a tensor for a tensor and an array for an array."""
    packed_width(mask.shape[-1])
    if isinstance(mask, np.ndarray):
        return np.packbits(mask.astype(bool, copy=False), axis=-1)
    if mask.dtype != torch.bool:
        raise ValueError(f"pack: expected a boolean mask, got {mask.dtype}")
    if mask.device.type == "cpu":
        return torch.from_numpy(np.packbits(mask.numpy(), axis=-1))
    return _pack_on_device(mask)


@overload
def unpack(packed: Tensor) -> Tensor: ...
@overload
def unpack(packed: Array) -> Array: ...
def unpack(packed: Tensor | Array) -> Tensor | Array:
    """uint8 (..., H, W/8) to boolean masks (..., H, W): the inverse of `pack`."""
    if isinstance(packed, np.ndarray):
        return np.unpackbits(packed, axis=-1).view(bool)
    if packed.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1).view(bool))
    return _unpack_on_device(packed)


def popcount(packed: Tensor) -> Tensor:
    """Pixels of each mask: uint8 (N, H, W/8) to int64 (N,)."""
    if packed.device.type != "cpu":
        return _count_bits(_words(packed))
    counts = np.bitwise_count(_numpy_words(packed))
    return torch.from_numpy(np.add.reduce(counts, axis=1, dtype=np.int64))


def intersections(proposals: ProposalBatch, packed_BHW8: Tensor) -> Tensor:
    """Pixels that each proposal shares with the packed mask of its sample: int64 (P,), exact."""
    if packed_BHW8.device.type != "cpu":
        return _intersections_on_device(proposals, packed_BHW8)
    words = _numpy_words(proposals.packed_PHW8)
    result = np.zeros(len(words), dtype=np.int64)
    ranges = itertools.pairwise(proposals.starts)
    for mask, (start, stop) in zip(_numpy_words(packed_BHW8), ranges, strict=True):
        filled = np.flatnonzero(mask)  # where the mask has no pixel nothing can be shared: most words are left out
        shared = words[start:stop].take(filled, axis=1)
        shared &= mask[filled]
        result[start:stop] = np.add.reduce(np.bitwise_count(shared), axis=1, dtype=np.uint32)
    return torch.from_numpy(result)


def unions(proposals: ProposalBatch, selected_P: Tensor, *, otherwise_BHW8: Tensor) -> Tensor:
    """Union of each sample's selected proposals, or `otherwise` where none is selected; all packed (B, H, W/8)."""
    if selected_P.device.type != "cpu":
        return _unions_on_device(proposals, selected_P, otherwise_BHW8)
    words, selected = _numpy_words(proposals.packed_PHW8), selected_P.numpy()
    result = otherwise_BHW8.clone()
    for union, (start, stop) in zip(_numpy_words(result), itertools.pairwise(proposals.starts), strict=True):
        chosen = np.flatnonzero(selected[start:stop])
        if chosen.size:
            union[:] = 0
        for place in chosen.tolist():  # one after the other: a gather of all of them would be read twice
            union |= words[start + place]
    return result


def _numpy_words(packed: Tensor) -> Array:
    """View (N, H, W/8) as rows of machine words, one row a mask; no copy."""
    rows = packed.numpy().reshape(packed.shape[0], packed.shape[1] * packed.shape[2])
    return rows.view(np.uint64 if rows.shape[1] % 8 == 0 else np.uint32)


def _words(packed: Tensor) -> Tensor:
    """View (N, H, W/8) as (N, words) of int64, or of int32 where the bytes do not fill whole int64 words."""
    rows = packed.reshape(packed.shape[0], packed.shape[1] * packed.shape[2])
    return rows.view(torch.int64 if rows.shape[1] % 8 == 0 else torch.int32)


def _count_bits(words: Tensor) -> Tensor:
    """Set bits of each row: words (N, M) to int64 (N,), adding up bits, pairs, nibbles, then bytes."""
    if words.dtype == torch.int32:
        words = words.to(torch.int64) & 0xFFFFFFFF
    words = words - ((words >> 1) & _ONES)
    words = (words & _TWOS) + ((words >> 2) & _TWOS)
    words = (words + (words >> 4)) & _FOURS
    return ((words * _BYTE_SUM) >> 56).sum(dim=1)


def _intersections_on_device(proposals: ProposalBatch, packed_BHW8: Tensor) -> Tensor:
    masks = _words(packed_BHW8)[proposals.sample_index_P]
    return _count_bits(_words(proposals.packed_PHW8) & masks)


def _unions_on_device(proposals: ProposalBatch, selected_P: Tensor, otherwise_BHW8: Tensor) -> Tensor:
    """Bring every sample to the same number of rows, a power of two, and OR the halves until one is left."""
    words = _words(proposals.packed_PHW8)
    rows = 1 << max(max(proposals.counts) - 1, 0).bit_length()
    table = words.new_zeros((proposals.samples, rows, words.shape[1]))
    table[proposals.sample_index_P, proposals.position_P] = words * selected_P[:, None]
    while rows > 1:
        rows //= 2
        table = table[:, :rows] | table[:, rows:]
    union_BHW8 = table.contiguous().view(torch.uint8).reshape(otherwise_BHW8.shape)
    any_B = torch.zeros(proposals.samples, dtype=torch.int64, device=words.device)
    any_B.index_add_(0, proposals.sample_index_P, selected_P.to(torch.int64))
    return torch.where(any_B[:, None, None] > 0, union_BHW8, otherwise_BHW8)


def _pack_on_device(mask: Tensor) -> Tensor:
    bits = mask.reshape(*mask.shape[:-1], mask.shape[-1] // 8, 8).to(torch.uint8)
    return (bits << _bit_shifts(mask.device)).sum(dim=-1, dtype=torch.uint8)


def _unpack_on_device(packed: Tensor) -> Tensor:
    bits = (packed[..., None] >> _bit_shifts(packed.device)) & 1
    return bits.reshape(*packed.shape[:-1], packed.shape[-1] * 8).to(torch.bool)


def _bit_shifts(device: torch.device) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=device)
