from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from semires_trainer.errors import DataError
from semires_trainer.proposals.masks import Proposal
from semires_trainer.proposals.packed_cache import PackedCache, nearest_indices
from semires_trainer.proposals.store import ProposalStore

Name = Callable[[int], str]


def fill(store: ProposalStore, name: str, masks: list[Any], *, height: int, width: int) -> None:
    writer = store.writer()
    writer.add(name, [Proposal.from_mask(mask) for mask in masks], height=height, width=width)
    writer.flush()
    store.refresh()


@pytest.mark.parametrize("index", range(5))
def test_masks_at_480_equal_the_official_loader(
    store: ProposalStore, proposal_files: Any, name_of: Name, index: int
) -> None:
    height, width = proposal_files.size(index)
    fill(store, name_of(index), list(proposal_files.masks(index)), height=height, width=width)
    cache = PackedCache(store, 480)
    cache.build()

    packed, areas = cache.load(name_of(index))

    expected = proposal_files.at_480(index)
    assert packed.dtype == np.uint8
    assert np.array_equal(packed, np.packbits(expected, axis=2))
    assert areas.tolist() == expected.sum(axis=(1, 2)).tolist()


@pytest.mark.parametrize("source", [1, 61, 97, 333, 427, 480, 500, 640, 1000, 4097])
@pytest.mark.parametrize("target", [32, 128, 480])
def test_nearest_indices_are_those_of_torch(source: int, target: int) -> None:
    ramp = torch.arange(source, dtype=torch.float32)[None, None]

    picked = functional.interpolate(ramp, size=target, mode="nearest")[0, 0].long()

    assert nearest_indices(source, target).tolist() == picked.tolist()


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        pytest.param(1, 1, 32, id="one-pixel"),
        pytest.param(1, 900, 64, id="one-row"),
        pytest.param(900, 1, 64, id="one-column"),
        pytest.param(20, 30, 96, id="enlarged"),
        pytest.param(50, 40, 36, id="size-not-a-multiple-of-8"),
    ],
)
def test_extreme_sizes_equal_torch(store: ProposalStore, name_of: Name, height: int, width: int, size: int) -> None:
    masks = np.random.default_rng(0).random((4, height, width)) < 0.5
    masks[1], masks[2] = False, True
    fill(store, name_of(0), list(masks), height=height, width=width)
    cache = PackedCache(store, size)
    cache.build()

    packed, areas = cache.load(name_of(0))

    resized = functional.interpolate(torch.from_numpy(masks).float()[None], size=(size, size), mode="nearest")
    assert np.array_equal(packed, np.packbits(resized[0].numpy() > 0, axis=2))
    assert areas.tolist() == resized[0].sum(dim=(1, 2)).tolist()


def test_an_image_without_proposals_loads_as_no_masks(store: ProposalStore, name_of: Name) -> None:
    fill(store, name_of(0), [], height=5, width=6)
    cache = PackedCache(store, 64)
    cache.build()

    packed, areas = cache.load(name_of(0))

    assert (packed.shape, areas.shape, cache.num_proposals(name_of(0))) == ((0, 64, 8), (0,), 0)


def test_only_new_shards_are_packed(store: ProposalStore, name_of: Name) -> None:
    fill(store, name_of(0), [np.ones((4, 4), bool)], height=4, width=4)
    cache = PackedCache(store, 32)
    first, again = cache.build(), cache.build()
    fill(store, name_of(1), [np.ones((4, 4), bool)], height=4, width=4)
    missing = cache.missing_shards()

    assert (first, again, len(missing), cache.build()) == (1, 0, 1, 1)
    assert cache.load(name_of(1))[1].tolist() == [32 * 32]


def test_two_ranks_share_the_shards(store: ProposalStore, name_of: Name) -> None:
    for number in range(5):
        fill(store, name_of(number), [np.eye(8, dtype=bool)], height=8, width=8)
    caches = [PackedCache(store, 32) for _ in range(2)]

    made = [cache.build(rank=rank, world_size=2) for rank, cache in enumerate(caches)]

    assert made == [3, 2]
    assert not caches[0].missing_shards()
    assert {int(caches[0].num_proposals(name_of(number))) for number in range(5)} == {1}


def test_another_size_is_another_cache(store: ProposalStore, name_of: Name) -> None:
    fill(store, name_of(0), [np.ones((4, 4), bool)], height=4, width=4)
    small, large = PackedCache(store, 32), PackedCache(store, 64)
    small.build()
    large.build()

    assert small.load(name_of(0))[1].tolist() == [32 * 32]
    assert large.load(name_of(0))[1].tolist() == [64 * 64]


def test_a_cache_may_lie_elsewhere(store: ProposalStore, name_of: Name, tmp_path: Path) -> None:
    fill(store, name_of(0), [np.ones((4, 4), bool)], height=4, width=4)
    cache = PackedCache(store, 32, folder=tmp_path / "local")
    cache.build()

    assert cache.folder.is_relative_to(tmp_path / "local" / store.folder.name)
    assert sorted(path.name for path in cache.folder.iterdir()) == store.shard_names()


def test_the_two_reasons_for_a_missing_image_are_told_apart(store: ProposalStore, name_of: Name) -> None:
    fill(store, name_of(0), [], height=4, width=4)
    cache = PackedCache(store, 32)

    with pytest.raises(DataError, match="has proposals, but is not in"):
        cache.load(name_of(0))
    with pytest.raises(DataError, match="has no proposals in"):
        cache.load(name_of(1))


def test_a_damaged_cache_file_is_named(store: ProposalStore, name_of: Name) -> None:
    fill(store, name_of(0), [np.eye(8, dtype=bool)], height=8, width=8)
    cache = PackedCache(store, 32)
    cache.build()
    path = cache.folder / store.shard_names()[0]
    content = path.read_bytes()
    path.write_bytes(content.replace(np.array([0, 32, 0, 4], np.int32).tobytes(), b"\xff" * 16))

    with pytest.raises(DataError, match=rf"{path.name} is damaged"):
        cache.load(name_of(0))


def test_what_is_loaded_may_be_changed_without_harm(store: ProposalStore, name_of: Name) -> None:
    fill(store, name_of(0), [np.ones((4, 4), bool)], height=4, width=4)
    cache = PackedCache(store, 32)
    cache.build()
    packed, areas = cache.load(name_of(0))
    packed[:], areas[:] = 0, 0

    assert cache.load(name_of(0))[1].tolist() == [32 * 32]


def test_a_spawned_process_reads_the_cache(store: ProposalStore, name_of: Name) -> None:
    fill(store, name_of(0), [np.eye(8, dtype=bool)], height=8, width=8)
    cache = PackedCache(store, 32)
    cache.build()
    here = cache.load(name_of(0))

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(cache.load, name_of(0)).result(timeout=60)

    assert np.array_equal(here[0], there[0])
    assert here[1].tolist() == there[1].tolist() == [8 * 4 * 4]
