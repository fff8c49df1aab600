"""Outlines become the masks that pycocotools and the official loader make of them; bad outlines are named."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from semires_trainer.data.masks import encode_rle, rasterize, resize_mask_nearest
from semires_trainer.errors import DataError

from .conftest import DATA, SQUARE, make_annotation

HEIGHT, WIDTH = 24, 32


def decode(rle: Any) -> np.ndarray:
    """pycocotools' decode, without its warning about an interface that NumPy will drop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco_mask.decode(rle).astype(bool)


def random_mask(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.3


def test_overlapping_polygons_of_one_object_stay_foreground() -> None:
    shifted = [value + 4 for value in SQUARE[0]]
    one, other = (rasterize(make_annotation([polygon]), HEIGHT, WIDTH) for polygon in (SQUARE[0], shifted))

    both = rasterize(make_annotation([SQUARE[0], shifted]), HEIGHT, WIDTH)

    assert (one & other).any()
    assert np.array_equal(both, one | other)


def test_a_polygon_covers_the_pixels_pycocotools_says() -> None:
    polygon = [3.4, 2.1, 29.7, 5.5, 20.2, 22.9, 8.8, 15.0]

    mask = rasterize(make_annotation([polygon]), HEIGHT, WIDTH)

    assert np.array_equal(mask, decode(coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)[0]))


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_in_both_forms_give_back_the_mask(seed: int) -> None:
    mask = random_mask(seed)
    column_major = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], column_major, [0]]))[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    crowd = make_annotation({"size": [HEIGHT, WIDTH], "counts": counts}, iscrowd=True)

    assert np.array_equal(rasterize(make_annotation(encode_rle(mask)), HEIGHT, WIDTH), mask)
    assert np.array_equal(rasterize(crowd, HEIGHT, WIDTH), mask)


def test_long_runs_of_a_large_picture_decode() -> None:
    mask = np.zeros((1500, 2000), dtype=bool)
    mask[700:705, 3:1990] = True

    assert np.array_equal(rasterize(make_annotation(encode_rle(mask)), 1500, 2000), mask)


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        pytest.param([], "no polygon", id="nothing"),
        pytest.param([[1, 1, 5, 5]], "at least 3 vertices, got 4 numbers", id="two-vertices"),
        pytest.param([[1, 1, 5, 5, 9, 1, 3]], "got 7 numbers", id="odd-count"),
        pytest.param([[1, 1, float("nan"), 5, 9, 1]], "not a finite number", id="nan"),
        pytest.param(
            [[40, 1, 50, 5, 45, 9]], r"outside the image of 32 x 24 pixels \(x from 40 to 50\)", id="right-of-it"
        ),
        pytest.param([[1, 1, 5, 5, 9, 900]], r"outside the image .* \(y from 1 to 900\)", id="far-vertex"),
        pytest.param([[-9, 1, -1, 5, -5, 9]], r"outside the image", id="left-of-it"),
        pytest.param([[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]], "covers no pixel", id="too-small"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "covers no pixel", id="empty-rle"),
        pytest.param({"size": [WIDTH, HEIGHT], "counts": [0, 768]}, r"size \[32, 24\].*\[24, 32\]", id="transposed"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": [4, 4]}, "cover 8 pixels, the image has 768", id="short"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": [-4, 772]}, "non-negative integers", id="negative"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": "00"}, "runs cover", id="short-text"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": "é!"}, "character", id="foreign-text"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": "o"}, "middle of a number", id="cut-text"),
        pytest.param({"size": [HEIGHT, WIDTH]}, "counts must be", id="no-counts"),
    ],
)
def test_a_bad_outline_names_file_annotation_and_problem(segmentation: Any, problem: str) -> None:
    with pytest.raises(DataError, match=f"segmentation: annotation 7 of image 1 in a.json: .*{problem}"):
        rasterize(make_annotation(segmentation), HEIGHT, WIDTH, source="a.json")


def test_a_vertex_slightly_outside_is_clipped() -> None:
    mask = rasterize(make_annotation([[-1, -1, 33, -1, 33, 25, -1, 25]]), HEIGHT, WIDTH)

    assert mask.all()


@pytest.mark.parametrize("index", range(5))
def test_ground_truth_is_resized_as_in_the_official_vectors(index: int) -> None:
    images = json.loads((DATA / "vectors/refine/proposal_files.json").read_text())["images"]
    height, width = images[index]["height"], images[index]["width"]
    with np.load(DATA / "vectors/refine/proposal_files.npz", allow_pickle=False) as arrays:
        masks = np.unpackbits(arrays[f"masks_{index}"], axis=1)[:, : height * width].reshape(-1, height, width)
        expected = np.unpackbits(arrays[f"ground_truth480_{index}"], axis=1).reshape(-1, 480, 480)

    resized = [resize_mask_nearest(mask.astype(bool), 480) for mask in masks]

    assert np.array_equal(np.stack(resized), expected.astype(bool))
