import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semires_trainer.metrics import intersection_union, metrics_of

VECTORS = Path(__file__).parents[1] / "data" / "vectors" / "metrics"
ARRAYS = dict(np.load(VECTORS / "metrics.npz", allow_pickle=False))
DESCRIBED = json.loads((VECTORS / "metrics.json").read_text())


def masks(name):
    bits = np.unpackbits(ARRAYS[name], axis=1)[:, : 60 * 80]
    return torch.from_numpy(bits.reshape(-1, 60, 80).astype(bool))


def test_intersections_and_unions_are_the_official_ones():
    intersection, union = intersection_union(masks("prediction"), masks("ground_truth"))

    assert intersection.dtype == union.dtype == torch.int64
    np.testing.assert_array_equal(intersection, ARRAYS["intersection"])
    np.testing.assert_array_equal(union, ARRAYS["union"])


def test_metrics_are_the_official_ones():
    found = metrics_of(ARRAYS["intersection"].tolist(), ARRAYS["union"].tolist())

    assert found.to_dict() == pytest.approx(DESCRIBED["official"], abs=1e-9)
    assert found.pairs == DESCRIBED["samples"]


def test_counts_above_the_thresholds_are_exact():
    found = metrics_of(ARRAYS["intersection"].tolist(), ARRAYS["union"].tolist())

    counts = [round(value * found.pairs / 100, 9) for value in found.precision]
    assert counts == list(DESCRIBED["correct_counts"].values())


@pytest.mark.parametrize("tenth", [5, 6, 7, 8, 9])
def test_an_iou_at_a_threshold_counts_and_one_pixel_less_does_not(tenth):
    at = metrics_of([tenth * 1000], [10_000]).to_dict()[f"Pr@0.{tenth}"]
    below = metrics_of([tenth * 1000 - 1], [10_000]).to_dict()[f"Pr@0.{tenth}"]

    assert (at, below) == (100.0, 0.0)


def test_two_empty_masks_count_as_a_miss():
    found = metrics_of([0, 10], [0, 10])

    assert (found.overall_iou, found.mean_iou, found.precision[0]) == (100.0, 50.0, 50.0)


def test_nothing_but_empty_masks_gives_zero():
    assert set(metrics_of([0, 0], [0, 0]).to_dict().values()) == {0.0}


@given(st.lists(st.tuples(st.integers(0, 230_400), st.integers(0, 230_400)), min_size=1), st.randoms())
def test_metrics_do_not_depend_on_the_order_of_the_pairs(pairs, generator: random.Random):
    pairs = [(min(pair), max(pair)) for pair in pairs]
    shuffled = generator.sample(pairs, len(pairs))

    assert metrics_of(*zip(*pairs, strict=True)) == metrics_of(*zip(*shuffled, strict=True))


def test_no_pair_is_refused():
    with pytest.raises(ValueError, match="metrics of 0 pairs"):
        metrics_of([], [])


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [
        pytest.param(torch.ones(1, 2, 2), torch.ones(1, 2, 2), id="not-boolean"),
        pytest.param(torch.ones(1, 2, 2).bool(), torch.ones(1, 2, 3).bool(), id="shape"),
    ],
)
def test_masks_that_cannot_be_compared_are_refused(prediction, truth):
    with pytest.raises(ValueError, match="boolean masks of one shape"):
        intersection_union(prediction, truth)
