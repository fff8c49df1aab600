import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semires_trainer.refine import packed as packed_module
from semires_trainer.refine.packed import ProposalBatch, intersections, pack, popcount, unions, unpack

SIZES = [
    pytest.param(64, 96, id="even-height"),
    pytest.param(37, 32, id="odd-height-fills-no-64-bit-words"),
    pytest.param(1, 32, id="one-word"),
]


def random_masks(count: int, height: int, width: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    density = torch.rand((count, 1, 1), generator=generator)
    return torch.rand((count, height, width), generator=generator) < density


def batch_of(*samples: torch.Tensor) -> ProposalBatch:
    return ProposalBatch.stack([(pack(masks), masks.sum(dim=(1, 2))) for masks in samples])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_packing_is_numpys_and_unpacking_undoes_it(height, width):
    mask = random_masks(5, height, width)

    packed = pack(mask)

    np.testing.assert_array_equal(packed.numpy(), np.packbits(mask.numpy(), axis=-1))
    np.testing.assert_array_equal(pack(mask.numpy()), packed.numpy())
    assert torch.equal(unpack(packed), mask)
    np.testing.assert_array_equal(unpack(packed.numpy()), mask.numpy())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tensor_operations_pack_and_unpack_like_numpy(height, width):
    mask = random_masks(5, height, width)

    assert torch.equal(packed_module._pack_on_device(mask), pack(mask))
    assert torch.equal(packed_module._unpack_on_device(pack(mask)), mask)


@pytest.mark.parametrize("width", [0, 8, 481])
def test_a_width_that_fills_no_words_is_refused(width):
    with pytest.raises(ValueError, match=f"multiple of 32, got {width}"):
        pack(torch.zeros((1, 4, width), dtype=torch.bool))


def test_a_mask_that_is_not_boolean_is_refused():
    with pytest.raises(ValueError, match=r"boolean mask, got torch\.float32"):
        pack(torch.zeros((1, 4, 32)))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_counts_are_those_of_the_plain_masks(height, width):
    first, second = random_masks(9, height, width), random_masks(4, height, width, seed=1)
    pseudo = random_masks(2, height, width, seed=2)
    proposals = batch_of(first, second)

    shared = intersections(proposals, pack(pseudo))

    expected = torch.cat([(first & pseudo[0]).sum(dim=(1, 2)), (second & pseudo[1]).sum(dim=(1, 2))])
    assert torch.equal(shared, expected)
    assert torch.equal(popcount(pack(first)), first.sum(dim=(1, 2)))


def test_counts_of_full_masks_at_the_papers_size_do_not_overflow():
    full = torch.ones((3, 480, 480), dtype=torch.bool)

    assert popcount(pack(full)).tolist() == [230_400] * 3
    assert intersections(batch_of(full), pack(full[:1])).tolist() == [230_400] * 3


@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
    height=st.sampled_from([32, 33]),
)
@settings(max_examples=40, deadline=None)
def test_tensor_operations_for_a_gpu_agree_with_numpy(counts, seed, height):
    proposals = batch_of(*random_masks(sum(counts), height, 32, seed=seed).split(counts))
    pseudo = pack(random_masks(len(counts), height, 32, seed=seed + 1))
    selected = torch.rand(sum(counts), generator=torch.Generator().manual_seed(seed)) < 0.5

    shared = packed_module._intersections_on_device(proposals, pseudo)
    union = packed_module._unions_on_device(proposals, selected, pseudo)

    assert torch.equal(shared, intersections(proposals, pseudo))
    assert torch.equal(union, unions(proposals, selected, otherwise_BHW8=pseudo))
    assert torch.equal(packed_module._count_bits(packed_module._words(pseudo)), popcount(pseudo))


def test_a_union_is_the_given_mask_where_nothing_is_selected():
    masks, otherwise = random_masks(3, 32, 32), random_masks(2, 32, 32, seed=1)
    proposals = batch_of(masks, masks[:0])

    union = unions(proposals, torch.tensor([True, False, True]), otherwise_BHW8=pack(otherwise))

    assert torch.equal(unpack(union), torch.stack([masks[0] | masks[2], otherwise[1]]))


def test_a_batch_knows_which_sample_a_proposal_belongs_to():
    masks = random_masks(5, 32, 32)

    proposals = batch_of(masks[:2], masks[:0], masks[2:])

    assert proposals.samples == 3
    assert proposals.counts == (2, 0, 3)
    assert proposals.starts == (0, 2, 2, 5)
    assert proposals.sample_index_P.tolist() == [0, 0, 2, 2, 2]


def test_a_batch_moves_as_one():
    moved = batch_of(random_masks(2, 32, 32)).to("meta")

    devices = [tensor.device.type for tensor in (moved.packed_PHW8, moved.sample_index_P, moved.area_P)]
    assert devices == ["meta"] * 3


def test_a_batch_passes_between_processes_unchanged():
    proposals = batch_of(random_masks(2, 32, 32), random_masks(1, 32, 32))

    received = pickle.loads(pickle.dumps(proposals))

    assert received.counts == proposals.counts
    assert torch.equal(received.packed_PHW8, proposals.packed_PHW8)


def test_an_empty_batch_has_its_samples_but_no_proposal():
    proposals = ProposalBatch.empty(samples=3, height=32, width=64)

    assert proposals.samples == 3
    assert proposals.packed_PHW8.shape == (0, 32, 8)


def test_stacking_no_sample_is_refused():
    with pytest.raises(ValueError, match="cannot stack 0 samples"):
        ProposalBatch.stack([])


def test_masks_without_their_areas_are_refused():
    with pytest.raises(ValueError, match="expected 2 packed masks"):
        ProposalBatch.stack([(pack(random_masks(2, 32, 32)), torch.zeros(1, dtype=torch.int64))])
