import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semires_trainer.refine.match import refine
from semires_trainer.refine.packed import ProposalBatch, intersections, pack

VECTORS = Path(__file__).parents[2] / "data" / "vectors" / "refine"
SIZE = 480
STRATEGIES = ["IOM", "CPI", "CPI-U", "CPI-O"]


def batch_of(samples):
    return ProposalBatch.stack([(pack(masks), masks.sum(dim=(1, 2))) for masks in samples])


@pytest.fixture(scope="module")
def official():
    """The 28 official samples: arrays, description, pseudo-labels and proposals."""
    arrays = dict(np.load(VECTORS / "refine.npz", allow_pickle=False))
    described = json.loads((VECTORS / "refine.json").read_text())
    pseudo = torch.from_numpy(arrays["teacher_q"] > 127)
    rows = [torch.from_numpy(arrays[f"proposals_{index:02d}"]) for index in range(len(pseudo))]
    packed = [row.reshape(-1, SIZE, SIZE // 8) for row in rows]
    counts = [torch.from_numpy(arrays[f"counts_{index:02d}"]) for index in range(len(pseudo))]
    areas = [count[:, 1] for count in counts]
    proposals = ProposalBatch.stack(list(zip(packed, areas, strict=True)))
    return arrays, described, pseudo, proposals


OFFICIAL = [
    pytest.param("iom_0.5", "IOM", {"iou": 0.5}, id="iom-0.5"),
    pytest.param("iom_0.6", "IOM", {"iou": 0.6}, id="iom-0.6"),
    pytest.param("iom_0.7", "IOM", {"iou": 0.7}, id="iom-0.7"),
    pytest.param("cpi_0.7_0.7", "CPI", {"inter1": 0.7, "inter2": 0.7}, id="cpi-0.7"),
    pytest.param("cpi_0.5_0.5", "CPI", {"inter1": 0.5, "inter2": 0.5}, id="cpi-0.5"),
    pytest.param("cpi_u_0.7", "CPI-U", {"inter1": 0.7}, id="cpi-u-0.7"),
    pytest.param("cpi_u_0.6", "CPI-U", {"inter1": 0.6}, id="cpi-u-0.6"),
    pytest.param("cpi_o_0.7", "CPI-O", {"inter2": 0.7}, id="cpi-o-0.7"),
]


@pytest.mark.parametrize(("name", "strategy", "thresholds"), OFFICIAL)
def test_masks_flags_and_choices_are_the_official_ones(official, name, strategy, thresholds):
    arrays, described, pseudo, proposals = official

    result = refine(pseudo, proposals, strategy=strategy, **thresholds)

    np.testing.assert_array_equal(pack(result.target_BHW).reshape(len(pseudo), -1), arrays[f"{name}.refined"])
    np.testing.assert_array_equal(result.matched_B, arrays[f"{name}.matched"])
    if strategy == "IOM":
        np.testing.assert_array_equal(result.index_B, arrays[f"{name}.index"])
    else:
        selected = [part.nonzero()[:, 0].tolist() for part in result.selected_P.split(proposals.counts)]
        assert selected == [sample["cpi_selected"][name] for sample in described["sample"]]


def test_intersections_are_the_official_ones(official):
    arrays, _, pseudo, proposals = official

    shared = intersections(proposals, pack(pseudo))

    expected = np.concatenate([arrays[f"counts_{index:02d}"][:, 0] for index in range(len(pseudo))])
    np.testing.assert_array_equal(shared, expected)


def brute_force(pseudo, masks, strategy, iou, inter1, inter2):
    """Eq. 6 to 8 word by word in exact arithmetic on thresholds given as (numerator, denominator)."""

    def above(part, whole, threshold):
        return whole > 0 and part * threshold[1] > threshold[0] * whole

    size = int(pseudo.sum())
    best, record, chosen = -1, (-1, 1), []
    for k, mask in enumerate(masks):
        both, either = int((mask & pseudo).sum()), int((mask | pseudo).sum())
        if strategy == "IOM":
            best_both, best_either = record
            if above(both, either, iou) and both * best_either > best_both * either:
                best, record = k, (both, either)
        else:
            first = strategy != "CPI-O" and above(both, size, inter1)
            second = strategy != "CPI-U" and above(both, int(mask.sum()), inter2)
            chosen += [k] if first or second else []
    chosen = [best] if best >= 0 else chosen
    refined = np.logical_or.reduce(masks[chosen]) if chosen else pseudo
    return refined, chosen, best


def nested_masks(rng, count):
    """Rectangles near one place, some empty or full, so that ratios are large, equal and at thresholds."""
    masks = np.zeros((count, 32, 32), dtype=bool)
    for mask in masks:
        top, left = rng.integers(0, 8, 2) * 2
        height, width = rng.integers(0, 9, 2) * 4
        mask[top : top + height, left : left + width] = True
    return masks


@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    strategy=st.sampled_from(STRATEGIES),
    tenths=st.tuples(*[st.integers(0, 10)] * 3),
)
@settings(max_examples=150, deadline=None)
def test_any_batch_is_refined_as_the_equations_say(seed, counts, strategy, tenths):
    rng = np.random.default_rng(seed)
    samples = [nested_masks(rng, count) for count in counts]
    pseudo = nested_masks(rng, len(counts))
    iou, inter1, inter2 = (tenth / 10 for tenth in tenths)

    result = refine(
        torch.from_numpy(pseudo),
        batch_of([torch.from_numpy(masks) for masks in samples]),
        strategy=strategy,
        iou=iou,
        inter1=inter1,
        inter2=inter2,
    )

    chosen = [part.nonzero()[:, 0].tolist() for part in result.selected_P.split(tuple(counts))]
    for b, masks in enumerate(samples):
        refined, expected, best = brute_force(pseudo[b], masks, strategy, *[(tenth, 10) for tenth in tenths])
        assert chosen[b] == expected
        assert bool(result.matched_B[b]) == bool(expected)
        assert int(result.index_B[b]) == best
        np.testing.assert_array_equal(result.target_BHW[b], refined)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [0, 3])
def test_an_empty_pseudo_label_matches_nothing(strategy, count):
    proposals = batch_of([torch.ones((count, 32, 32), dtype=torch.bool)])

    result = refine(torch.zeros((1, 32, 32), dtype=torch.bool), proposals, strategy=strategy)

    assert not result.matched_B.any()
    assert not result.target_BHW.any()
    assert result.index_B.tolist() == [-1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_empty_proposal_is_never_selected(strategy):
    pseudo = torch.zeros((2, 32, 32), dtype=torch.bool)
    pseudo[1, :16] = True
    proposals = batch_of([torch.zeros((2, 32, 32), dtype=torch.bool)] * 2)

    result = refine(pseudo, proposals, strategy=strategy, iou=0.0, inter1=0.0, inter2=0.0)

    assert not result.selected_P.any()
    assert torch.equal(result.target_BHW, pseudo)


def test_of_equal_ious_the_first_wins():
    pseudo = torch.zeros((1, 32, 32), dtype=torch.bool)
    pseudo[0, :16] = True
    smaller, larger = pseudo[0].clone(), pseudo[0].clone()
    smaller[0] = False
    larger[16] = False
    result = refine(pseudo, batch_of([torch.stack([smaller, pseudo[0], pseudo[0], larger])]), strategy="IOM")

    assert result.index_B.tolist() == [1]
    assert result.selected_P.tolist() == [False, True, False, False]


def test_a_whole_image_proposal_floods_under_cpi_u_but_not_under_cpi_o():
    pseudo = torch.zeros((1, 32, 32), dtype=torch.bool)
    pseudo[0, :4, :4] = True
    proposals = batch_of([torch.ones((1, 32, 32), dtype=torch.bool)])

    assert refine(pseudo, proposals, strategy="CPI-U").target_BHW.all()
    assert not refine(pseudo, proposals, strategy="CPI-O").matched_B.any()


def test_without_a_strategy_every_sample_keeps_its_pseudo_label():
    pseudo = torch.ones((2, 32, 32), dtype=torch.bool)
    proposals = batch_of([torch.ones((1, 32, 32), dtype=torch.bool)] * 2)

    result = refine(pseudo, proposals, strategy="None")

    assert not result.matched_B.any()
    assert not result.selected_P.any()
    assert torch.equal(result.target_BHW, pseudo)


def test_the_refined_mask_can_be_trained_on_after_an_inference_mode_teacher():
    with torch.inference_mode():
        pseudo = torch.ones((1, 32, 32), dtype=torch.bool)

    result = refine(pseudo, batch_of([torch.ones((1, 32, 32), dtype=torch.bool)]), strategy="IOM")

    assert not result.target_BHW.is_inference()


ONE = torch.ones((1, 32, 32), dtype=torch.bool)


@pytest.mark.parametrize(
    ("pseudo", "strategy", "message"),
    [
        pytest.param(ONE.expand(2, 32, 32), "IOM", r"expected bool \(1, 32, 32\)", id="batch"),
        pytest.param(ONE.expand(1, 32, 32).repeat(1, 1, 2), "IOM", r"got \(1, 32, 64\)", id="size"),
        pytest.param(ONE.float(), "IOM", r"torch\.float32", id="dtype"),
        pytest.param(ONE.to("meta"), "IOM", "are on meta", id="device"),
        pytest.param(ONE, "OIM", "got 'OIM'", id="strategy"),
    ],
)
def test_what_does_not_fit_together_is_refused(pseudo, strategy, message):
    proposals = batch_of([torch.ones((1, 32, 32), dtype=torch.bool)])

    with pytest.raises(ValueError, match=message):
        refine(pseudo, proposals, strategy=strategy)
