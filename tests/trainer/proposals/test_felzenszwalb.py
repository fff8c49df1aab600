from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from semires_trainer.proposals.felzenszwalb import FelzenszwalbProposer
from semires_trainer.proposals.masks import Proposal, decode_masks, pairwise_iou

PROPOSER = FelzenszwalbProposer()


def picture(height: int = 60, width: int = 80) -> NDArray[np.uint8]:
    """A red square and a blue bar on grey, with noise."""
    rng = np.random.default_rng(0)
    pixels = np.full((height, width, 3), 128, np.int64)
    pixels[10:40, 10:40] = (200, 30, 30)
    pixels[45:55, 5:75] = (30, 30, 200)
    return (pixels + rng.integers(-6, 7, pixels.shape)).clip(0, 255).astype(np.uint8)


def masks_of(proposals: list[Proposal], height: int = 60, width: int = 80) -> NDArray[np.bool_]:
    return decode_masks([proposal.rle for proposal in proposals], height=height, width=width)


@pytest.mark.parametrize("place", [np.s_[10:40, 10:40], np.s_[45:55, 5:75]], ids=["square", "bar"])
def test_clear_objects_are_among_the_proposals(place: tuple[slice, slice]) -> None:
    wanted = np.zeros((60, 80), np.bool_)
    wanted[place] = True
    masks = masks_of(PROPOSER.propose(picture()))

    ious = (masks & wanted).sum(axis=(1, 2)) / (masks | wanted).sum(axis=(1, 2))
    assert ious.max() > 0.75


def test_the_same_picture_gives_the_same_proposals_in_the_same_order() -> None:
    assert PROPOSER.propose(picture()) == pickle.loads(pickle.dumps(PROPOSER)).propose(picture())


def test_segments_of_one_scale_cover_the_picture_once() -> None:
    masks = masks_of(FelzenszwalbProposer(scales=(100.0,)).propose(picture()))

    assert (masks.sum(axis=0) == 1).all()


@pytest.mark.parametrize("nms_iou", [0.5, 0.9])
def test_no_two_scales_give_nearly_the_same_mask(nms_iou: float) -> None:
    proposer = FelzenszwalbProposer(scales=(20.0, 50.0, 100.0, 200.0), min_size=10, nms_iou=nms_iou)
    every = dataclasses.replace(proposer, nms_iou=1.0)
    rles = [proposal.rle for proposal in proposer.propose(picture())]

    ious = pairwise_iou(rles, rles) - np.eye(len(rles))
    assert 3 < len(rles) < len(every.propose(picture()))
    assert ious.max() <= nms_iou


def test_no_proposal_is_smaller_than_the_smallest_segment() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    masks = masks_of(FelzenszwalbProposer(scales=(20.0,), min_size=40).propose(noise))

    assert masks.sum(axis=(1, 2)).min() >= 40


def test_masks_of_a_large_picture_have_its_size() -> None:
    large = picture().repeat(6, axis=0).repeat(4, axis=1)

    proposals = PROPOSER.propose(large)

    masks = masks_of(proposals, 360, 320)
    assert len(proposals) >= 2
    assert masks.any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 90), (90, 1), (2, 2), (3, 700)], ids=lambda number: str(number)
)
def test_tiny_and_thin_pictures_are_no_error(height: int, width: int) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)

    for proposal in PROPOSER.propose(noise):
        assert proposal.rle["size"] == [height, width]


def test_a_picture_of_one_colour_has_no_proposals() -> None:
    assert PROPOSER.propose(np.full((30, 30, 3), 77, np.uint8)) == []
