"""A sample is a function of its address: the same whatever loads it, whenever, in whatever order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semires_trainer.data.custom import load_custom
from semires_trainer.data.datasets import (
    EvalDataset,
    Inputs,
    LabeledDataset,
    UnlabeledDataset,
    collate,
    evaluation_pairs,
)
from semires_trainer.data.images import ImageSource
from semires_trainer.data.loader import load_batches
from semires_trainer.data.pictures import PictureLoader
from semires_trainer.data.sampling import Address, AddressSampler, EndlessStream
from semires_trainer.data.tokenizer import Tokenizer
from semires_trainer.data.transforms import Augmentation
from semires_trainer.errors import DataError
from semires_trainer.refine.packed import ProposalBatch

from .conftest import DATA, custom_document

SIZE = 32


@dataclass
class FourMasks:
    """As many proposals as the first hexadecimal digit of the image says, modulo 4."""

    def load(self, image_sha256: str) -> tuple[np.ndarray, np.ndarray]:
        count = int(image_sha256[0], 16) % 4
        masks = np.full((count, SIZE, SIZE // 8), 0x0F, dtype=np.uint8)
        return masks, np.full(count, SIZE * SIZE // 2, dtype=np.int32)


@pytest.fixture
def inputs(write_custom: Callable[[dict[str, Any]], Path], image_folder: Path) -> Inputs:
    return Inputs(
        dataset=load_custom("Custom", write_custom(custom_document())),
        pictures=PictureLoader(ImageSource(image_folder), size=SIZE),
        tokenizer=Tokenizer(DATA / "bert-base-uncased-vocab.txt", 20),
    )


@pytest.fixture
def unlabeled(inputs: Inputs) -> UnlabeledDataset:
    return UnlabeledDataset(
        inputs=inputs, refs=inputs.dataset.refs_of("train"), seed=5, proposals=FourMasks(), with_truth=True
    )


def assert_same(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        elif key == "proposals":
            assert value.counts == other[key].counts
            assert torch.equal(value.packed_PHW8, other[key].packed_PHW8)
        else:
            assert value == other[key], key


def test_a_labelled_sample_has_picture_mask_and_text(inputs: Inputs) -> None:
    dataset = LabeledDataset(inputs=inputs, refs=inputs.dataset.refs_of("train"), seed=0)

    sample = dataset[Address(epoch=0, index=2)]

    assert len(dataset) == 3
    assert (sample["image"].shape, sample["image"].dtype) == ((3, SIZE, SIZE), torch.uint8)
    assert (sample["mask"].shape, sample["mask"].dtype) == ((SIZE, SIZE), torch.uint8)
    assert sample["mask"].unique().tolist() == [0, 1]
    assert sample["input_ids"].shape == sample["attention_mask"].shape == (20,)
    assert sample["ref"] == 2
    assert sample["expression"] in dataset.refs[2].expressions


def test_an_unlabelled_sample_has_two_views_and_its_images_proposals(
    unlabeled: UnlabeledDataset, image_folder: Path
) -> None:
    sample = unlabeled[Address(epoch=0, index=0)]

    assert sample["image_sha256"] == hashlib.sha256((image_folder / "1.jpg").read_bytes()).hexdigest()
    assert sample["weak"].shape == sample["strong"].shape == (3, SIZE, SIZE)
    assert sample["weak"].dtype == sample["strong"].dtype == torch.uint8
    assert "image" not in sample


def test_truth_of_unlabelled_refs_is_only_there_on_request(unlabeled: UnlabeledDataset) -> None:
    address = Address(epoch=0, index=0)

    assert "mask" in unlabeled[address]
    assert "mask" not in replace(unlabeled, with_truth=False)[address]


def test_expressions_are_drawn_evenly_over_epochs(unlabeled: UnlabeledDataset) -> None:
    drawn = [unlabeled[Address(epoch=epoch, index=0)]["expression"] for epoch in range(100)]

    assert 30 < drawn.count("object 0") < 70


def test_burn_in_may_see_the_strong_view(inputs: Inputs) -> None:
    plain = LabeledDataset(inputs=inputs, refs=inputs.dataset.refs_of("train"), seed=0)
    augmented = replace(plain, augmentation=Augmentation(blur_probability=1.0, jitter_probability=1.0))
    address = Address(epoch=0, index=0)

    assert not torch.equal(plain[address]["image"], augmented[address]["image"])
    assert torch.equal(plain[address]["mask"], augmented[address]["mask"])


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers: int, unlabeled: UnlabeledDataset) -> None:
    stream = EndlessStream(size=len(unlabeled), batch=4, seed=0, name="unlabeled")
    sampler = AddressSampler(stream=stream, start_step=2, end_step=5, micro_batch=2)

    loaded = [
        list(load_batches(unlabeled, sampler, workers=count, stack_proposals=ProposalBatch.stack))
        for count in (0, workers)
    ]

    assert len(loaded[0]) == len(loaded[1]) == 6
    for one, other in zip(*loaded, strict=True):
        assert_same(one, other)


def test_a_cache_changes_nothing_but_reading(unlabeled: UnlabeledDataset, image_folder: Path) -> None:
    cached = PictureLoader(ImageSource(image_folder), size=SIZE, cache_bytes=2 * 3 * SIZE * SIZE)
    with_cache = replace(unlabeled, inputs=replace(unlabeled.inputs, pictures=cached))
    addresses = [Address(epoch=epoch, index=index) for epoch in range(2) for index in (0, 2)]
    first = [with_cache[address] for address in addresses[:2]]
    for path in image_folder.iterdir():
        path.unlink()

    again = [with_cache[address] for address in addresses]

    assert all(torch.equal(one["weak"], other["weak"]) for one, other in zip(first, again[:2], strict=True))


def test_a_full_cache_keeps_its_bound(inputs: Inputs, image_folder: Path) -> None:
    loader = PictureLoader(ImageSource(image_folder), size=SIZE, cache_bytes=3 * SIZE * SIZE)
    for record in inputs.dataset.images.values():
        loader.load(record)
    (image_folder / "1.jpg").unlink()
    (image_folder / "2.jpg").unlink()

    assert loader.load(inputs.dataset.images[1]).pixels.shape == (SIZE, SIZE, 3)
    with pytest.raises(DataError, match=r"2\.jpg is not in"):
        loader.load(inputs.dataset.images[2])


def test_evaluation_has_both_sizes_of_truth_and_typed_sentences(inputs: Inputs) -> None:
    refs = inputs.dataset.refs
    dataset = EvalDataset(inputs=inputs, refs=refs, pairs=evaluation_pairs(refs))

    batch = collate([dataset[place] for place in range(3)])

    assert [len(dataset), batch["ref"].tolist()] == [8, [0, 0, 1]]
    assert batch["image"].shape == (3, 3, SIZE, SIZE)
    assert [mask.shape for mask in batch["original_mask"]] == [(24, 32)] * 3
    assert batch["expression"] == ["object 0", "thing 0 on the left", "object 1"]


def test_one_expression_per_ref_is_drawn_by_the_seed(inputs: Inputs) -> None:
    refs = inputs.dataset.refs * 20
    pairs = [evaluation_pairs(refs, mode="OneExpression", seed=seed) for seed in (0, 0, 1)]

    assert pairs[0] == pairs[1] != pairs[2]
    assert [number for number, _ in pairs[0]] == list(range(80))
    assert all(sentence in refs[number].raw for number, sentence in pairs[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_arrives_as_one_line_from_any_worker(
    workers: int, unlabeled: UnlabeledDataset, image_folder: Path
) -> None:
    (image_folder / "2.jpg").write_bytes(b"gone")
    addresses = [[Address(epoch=0, index=index)] for index in (0, 1, 2)]
    loaded = []

    with pytest.raises(DataError, match=r"^image 2\.jpg \(id 2\) in .* is not an image\. Replace or remove"):  # noqa: PT012
        for batch in load_batches(unlabeled, addresses, workers=workers):
            loaded.append(batch["ref"].item())
    assert loaded == [0, 1]


def test_a_mask_that_covers_nothing_names_the_annotation_file(
    inputs: Inputs, write_custom: Callable[[dict[str, Any]], Path]
) -> None:
    document = json.loads(json.dumps(custom_document()))
    document["annotations"][0]["segmentation"] = [[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]]
    changed = replace(inputs, dataset=load_custom("Custom", write_custom(document)))

    with pytest.raises(DataError, match=r"annotation 10 of image 1 in .*objects\.json: covers no pixel"):
        LabeledDataset(inputs=changed, refs=changed.dataset.refs, seed=0)[Address(epoch=0, index=0)]
