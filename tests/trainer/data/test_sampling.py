"""Order is a function of (seed, epoch, index): the same for every number of ranks, from any step, on every machine."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semires_trainer.data.sampling import (
    Address,
    AddressSampler,
    EndlessStream,
    EpochStream,
    draw_below,
    permutation,
    sample_generator,
)

GOLDEN_FIRST = [3, 9, 0, 1, 2, 7, 6, 5, 4, 8]
GOLDEN_SECOND = [8, 4, 5, 3, 2, 9, 0, 7, 6, 1]
GOLDEN_DRAWS = [0.3482724529460819, 0.5743224104241036, 0.2645489369897551]
"""Written by this code once: a change of any of them would change every run."""


def test_permutations_are_the_same_for_ever() -> None:
    assert permutation(10, seed=0, epoch=0, stream="unlabeled").tolist() == GOLDEN_FIRST
    assert permutation(10, seed=7, epoch=3, stream="labeled").tolist() == GOLDEN_SECOND


def test_draws_of_an_address_are_the_same_for_ever() -> None:
    generator = sample_generator(1, 2, 3, "unlabeled")

    assert [generator.random() for _ in range(3)] == GOLDEN_DRAWS


@given(size=st.integers(1, 300), seed=st.integers(0, 2**63), epoch=st.integers(0, 1000))
def test_a_permutation_holds_every_index_once(size: int, seed: int, epoch: int) -> None:
    assert sorted(permutation(size, seed=seed, epoch=epoch, stream="x")) == list(range(size))


def test_seeds_epochs_and_streams_give_unrelated_orders() -> None:
    orders = [
        tuple(permutation(50, seed=seed, epoch=epoch, stream=stream))
        for seed, epoch, stream in itertools.product((0, 1), (0, 1), ("a", "b"))
    ]

    assert len(set(orders)) == 8


def test_every_place_is_equally_likely() -> None:
    first = np.bincount([permutation(5, seed=seed, epoch=0, stream="x")[0] for seed in range(2000)], minlength=5)

    assert first.min() > 330
    assert first.max() < 470


def test_draw_below_covers_the_range_evenly() -> None:
    generator = sample_generator(0, 0, 0, "x")
    counts = np.bincount([draw_below(generator, 3) for _ in range(3000)], minlength=3)

    assert len(counts) == 3
    assert counts.min() > 900


def test_an_epoch_is_whole_batches_of_its_permutation() -> None:
    stream = EpochStream(size=11, batch=4, seed=5, name="unlabeled")

    batches = [stream.batch_at(step) for step in range(4)]

    assert stream.steps_per_epoch == 2
    assert [{address.epoch for address in batch} for batch in batches] == [{0}, {0}, {1}, {1}]
    order = permutation(11, seed=5, epoch=1, stream="unlabeled")
    assert [address.index for address in batches[2] + batches[3]] == order[:8].tolist()


def test_fewer_samples_than_a_batch_still_make_a_step_of_distinct_addresses() -> None:
    stream = EpochStream(size=3, batch=8, seed=0, name="unlabeled")

    addresses = stream.batch_at(0) + stream.batch_at(1)

    assert stream.steps_per_epoch == 1
    assert len(set(addresses)) == 16
    assert sorted(address.index for address in addresses[:3]) == [0, 1, 2]


def test_endless_passes_visit_every_sample_once_a_pass() -> None:
    stream = EndlessStream(size=5, batch=3, seed=0, name="labeled")

    addresses = [address for step in range(5) for address in stream.batch_at(step)]

    assert addresses == [
        Address(epoch=epoch, index=int(index))
        for epoch in range(3)
        for index in permutation(5, seed=0, epoch=epoch, stream="labeled")
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("micro_batch", [None, 1, 2])
def test_ranks_and_micro_batches_together_are_the_global_batch(world_size: int, micro_batch: int | None) -> None:
    stream = EndlessStream(size=30, batch=12, seed=0, name="labeled")
    per_rank = [
        AddressSampler(
            stream=stream, start_step=4, end_step=6, rank=rank, world_size=world_size, micro_batch=micro_batch
        )
        for rank in range(world_size)
    ]
    pieces = [list(sampler) for sampler in per_rank]

    assert all(len(piece) == len(sampler) for piece, sampler in zip(pieces, per_rank, strict=True))
    steps = [
        [list(piece[len(piece) // 2 * half : len(piece) // 2 * (half + 1)]) for piece in pieces] for half in (0, 1)
    ]
    joined = [[address for rank in step for micro in rank for address in micro] for step in steps]
    assert joined == [list(stream.batch_at(4)), list(stream.batch_at(5))]


def test_a_sampler_can_start_at_any_step() -> None:
    stream = EpochStream(size=20, batch=4, seed=0, name="unlabeled")

    whole = list(AddressSampler(stream=stream, start_step=0, end_step=12))

    assert list(AddressSampler(stream=stream, start_step=7, end_step=12)) == whole[7:]
    assert len(AddressSampler(stream=stream, start_step=12, end_step=7)) == 0


def test_a_stream_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        EpochStream(size=0, batch=4, seed=0, name="unlabeled")
