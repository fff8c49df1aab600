from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from semires_trainer.errors import DataError
from semires_trainer.proposals.masks import Proposal
from semires_trainer.proposals.oracle import best_iou, oracle_best_iou
from semires_trainer.proposals.store import ProposalStore

Name = Callable[[int], str]


@pytest.fixture
def filled(store: ProposalStore, name_of: Name) -> ProposalStore:
    """Image 0 has its left half and its top row as proposals, image 1 has none."""
    left, top = np.zeros((4, 6), np.bool_), np.zeros((4, 6), np.bool_)
    left[:, :3], top[0] = True, True
    writer = store.writer()
    writer.add(name_of(0), [Proposal.from_mask(left), Proposal.from_mask(top)], height=4, width=6)
    writer.add(name_of(1), [], height=4, width=6)
    writer.flush()
    store.refresh()
    return store


def test_the_best_proposal_counts(filled: ProposalStore, name_of: Name) -> None:
    wanted = np.zeros((4, 6), np.bool_)
    wanted[:, :2] = True

    assert best_iou(filled.get(name_of(0)), wanted) == pytest.approx(8 / 12)


def test_without_proposals_the_best_is_zero(filled: ProposalStore, name_of: Name) -> None:
    assert best_iou(filled.get(name_of(1)), np.ones((4, 6), np.bool_)) == 0


def test_a_mask_of_another_size_is_an_error(filled: ProposalStore, name_of: Name) -> None:
    with pytest.raises(DataError, match=r"size \(6, 4\), the proposals of its image \(4, 6\)"):
        best_iou(filled.get(name_of(0)), np.ones((6, 4), np.bool_))


def test_the_mean_is_over_objects_whose_image_has_a_record(filled: ProposalStore, name_of: Name) -> None:
    top = np.zeros((4, 6), np.bool_)
    top[0] = True
    refs = [(name_of(0), top), (name_of(0), ~top), (name_of(1), top), (name_of(2), top)]

    report = oracle_best_iou(refs, filled)

    assert report.refs == 3
    assert report.mean_iou == pytest.approx((1 + 9 / 21 + 0) / 3)
    assert report.above_half == pytest.approx(1 / 3)


def test_no_objects_at_all_is_no_error(filled: ProposalStore) -> None:
    assert oracle_best_iou([], filled).mean_iou == 0
