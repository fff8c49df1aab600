from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from semires_trainer.errors import DataError
from semires_trainer.proposals.masks import Rle, decode_masks, encode_mask, encode_runs, measure, pairwise_iou

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40))


@given(arrays.arrays(np.bool_, SHAPES))
@settings(deadline=None, max_examples=60)
def test_masks_survive_encoding(masks_PHW: NDArray[np.bool_]) -> None:
    _, height, width = masks_PHW.shape

    decoded = decode_masks([encode_mask(mask) for mask in masks_PHW], height=height, width=width)

    assert np.array_equal(decoded, masks_PHW)


def test_long_runs_survive_encoding() -> None:
    mask = np.zeros((3000, 2000), np.bool_)
    mask[:, 700:1900] = True
    mask[5, 5] = True

    assert np.array_equal(decode_masks([encode_mask(mask)], height=3000, width=2000)[0], mask)


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param([12], id="empty"),
        pytest.param([0, 12], id="full"),
        pytest.param([2, 3, 7, 0], id="ends-with-an-empty-run"),
    ],
)
def test_runs_are_encoded_as_pycocotools_encodes_the_mask(runs: list[int]) -> None:
    rle = encode_runs(runs, height=4, width=3)

    assert rle["counts"] == encode_mask(decode_masks([rle], height=4, width=3)[0])["counts"]


@pytest.mark.parametrize(
    ("counts", "complaint"),
    [
        pytest.param(encode_runs([5, 5], height=5, width=2)["counts"], "do not fill 4 x 3", id="too-few-pixels"),
        pytest.param(encode_runs([9, 9], height=9, width=2)["counts"], "do not fill 4 x 3", id="too-many"),
        pytest.param(b"", "compressed form", id="nothing"),
        pytest.param(b"\xff\xfe", "compressed form", id="other-characters"),
        pytest.param(b"5o", "compressed form", id="number-goes-on-after-the-end"),
        pytest.param(b"oooooooooo0", "compressed form", id="number-too-long"),
        pytest.param(b"7N7N", "do not fill", id="negative-run"),
    ],
)
def test_damaged_runs_are_an_error(counts: bytes, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        decode_masks([Rle(size=[3, 4], counts=counts)], height=3, width=4)


def test_a_mask_of_another_size_is_an_error() -> None:
    with pytest.raises(DataError, match=r"has size \[2, 2\], its image \[3, 4\]"):
        decode_masks([encode_mask(np.ones((2, 2), np.bool_))], height=3, width=4)


def test_iou_equals_that_of_pixels() -> None:
    masks = np.random.default_rng(0).random((5, 9, 11)) < 0.5
    masks[4] = False
    rles = [encode_mask(mask) for mask in masks]

    shared = (masks[:, None] & masks).sum(axis=(2, 3))
    joint = (masks[:, None] | masks).sum(axis=(2, 3))
    assert np.allclose(pairwise_iou(rles, rles), shared / np.maximum(joint, 1))


@pytest.mark.parametrize("density", [0.0, 0.001, 0.02, 0.5, 1.0])
def test_areas_and_boxes_equal_those_of_pycocotools(density: float) -> None:
    masks = np.random.default_rng(3).random((4, 61, 47)) < density
    rles = [encode_mask(mask) for mask in masks]

    boxes, areas = measure(rles, height=61, width=47)

    assert areas.tolist() == coco_mask.area(rles).tolist() == masks.sum(axis=(1, 2)).tolist()
    assert boxes.tolist() == coco_mask.toBbox(rles).tolist()


def test_an_image_may_have_more_masks_than_pycocotools_can_measure() -> None:
    rle = encode_mask(np.eye(5, dtype=np.bool_))

    assert measure([rle] * 600, height=5, width=5)[1].tolist() == [5] * 600


def test_rows_of_a_box_are_tight() -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[2:5, 3:7] = True

    assert measure([encode_mask(mask)], height=9, width=9)[0].tolist() == [[3, 2, 4, 3]]
