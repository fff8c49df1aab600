"""Order and chance as functions of an address, never of a process's history.

A sample address `(epoch, index)` names one draw. The order of an epoch, the expression drawn and every
augmentation follow from `(seed, epoch, index)`, so they are the same for any number of workers or processes
and after any resume.

All bits come from Philox keyed by SeedSequence. NumPy guarantees the raw output of both for every version
and machine, but not that of `Generator.permutation` or `Generator.integers`; so permutations sort raw keys,
and draws use only `Generator.random`, which is the top 53 bits of a raw word.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Address:
    """One draw of one sample."""

    epoch: int
    """Pass over the data, from 0."""
    index: int
    """Position in the list of samples."""


class Stream(Protocol):
    """An endless sequence of global batches."""

    def batch_at(self, step: int) -> tuple[Address, ...]:
        """Addresses of global step `step`, counted from 0 since the start of the run."""


@functools.lru_cache(maxsize=16)
def permutation(size: int, *, seed: int, epoch: int, stream: str) -> npt.NDArray[np.int64]:
    """A uniform permutation of range(size), read-only.

    `stream` is a name that keeps uses of one seed apart.
    """
    keys = _philox(seed, epoch, stream).random_raw(size)
    order = np.argsort(keys, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def sample_generator(seed: int, epoch: int, index: int, stream: str) -> np.random.Generator:
    """The source of all chance of one sample address. Draw with `.random()` only (see the module's text)."""
    return np.random.Generator(_philox(seed, epoch, stream, index))


def draw_below(generator: np.random.Generator, count: int) -> int:
    """A uniform integer of range(count), from one `.random()`."""
    return min(int(generator.random() * count), count - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochStream:
    """Epochs of whole batches: epoch e, step s is perm(e)[s * batch : (s + 1) * batch]; the rest is dropped.

    With fewer samples than one batch an epoch is one step, filled by endless passes.
    """

    size: int
    """Number of samples, at least 1."""
    batch: int
    """Global batch: samples of all ranks in one optimizer step."""
    seed: int
    name: str
    """Name of the random stream, such as "unlabeled"."""

    def __post_init__(self) -> None:
        _check_sizes(self.size, self.batch)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass, at least 1."""
        return max(1, self.size // self.batch)

    def batch_at(self, step: int) -> tuple[Address, ...]:
        """Addresses of global step `step`."""
        if self.size < self.batch:
            return _passes(self.size, step * self.batch, self.batch, seed=self.seed, name=self.name)
        epoch, start = divmod(step, self.steps_per_epoch)
        order = permutation(self.size, seed=self.seed, epoch=epoch, stream=self.name)
        chosen = order[start * self.batch : (start + 1) * self.batch]
        return tuple(Address(epoch=epoch, index=int(index)) for index in chosen)


@dataclass(frozen=True, kw_only=True, slots=True)
class EndlessStream:
    """Passes without end: position p = step * batch + j is sample perm(p // size)[p % size]."""

    size: int
    batch: int
    seed: int
    name: str

    def __post_init__(self) -> None:
        _check_sizes(self.size, self.batch)

    def batch_at(self, step: int) -> tuple[Address, ...]:
        """Addresses of global step `step`."""
        return _passes(self.size, step * self.batch, self.batch, seed=self.seed, name=self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class AddressSampler:
    """Batches of addresses for one rank from any step on: the `batch_sampler` of a DataLoader.

    A step yields ceil(rank's share / micro_batch) lists, in order; without `micro_batch` it yields one.
    """

    stream: Stream
    start_step: int
    end_step: int
    rank: int = 0
    world_size: int = 1
    micro_batch: int | None = None

    def __iter__(self) -> Iterator[list[Address]]:
        """Yield the addresses of each micro-batch."""
        for step in range(self.start_step, self.end_step):
            mine = rank_slice(self.stream.batch_at(step), rank=self.rank, world_size=self.world_size)
            yield from micro_batches(mine, self.micro_batch)

    def __len__(self) -> int:
        """Number of micro-batches left (the share of a rank is the same in every step)."""
        if self.end_step <= self.start_step:
            return 0
        share = rank_slice(self.stream.batch_at(0), rank=self.rank, world_size=self.world_size)
        return (self.end_step - self.start_step) * len(micro_batches(share, self.micro_batch))


def rank_slice(addresses: Sequence[Address], *, rank: int, world_size: int) -> list[Address]:
    """This rank's contiguous share of a global batch; shares differ by at most one."""
    start, stop = (len(addresses) * edge // world_size for edge in (rank, rank + 1))
    return list(addresses[start:stop])


def micro_batches(addresses: Sequence[Address], size: int | None) -> list[list[Address]]:
    """Cut a rank's share into pieces of at most `size` for gradient accumulation."""
    step = size or max(1, len(addresses))
    return [list(addresses[start : start + step]) for start in range(0, len(addresses), step)]


def _passes(size: int, start: int, count: int, *, seed: int, name: str) -> tuple[Address, ...]:
    positions = (divmod(position, size) for position in range(start, start + count))
    return tuple(
        Address(epoch=epoch, index=int(permutation(size, seed=seed, epoch=epoch, stream=name)[place]))
        for epoch, place in positions
    )


def _philox(seed: int, epoch: int, stream: str, *more: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(stream.encode()), epoch, *more]))


def _check_sizes(size: int, batch: int) -> None:
    if size < 1 or batch < 1:
        raise ValueError(f"a stream needs at least one sample and a batch of one, got {size} and {batch}")
