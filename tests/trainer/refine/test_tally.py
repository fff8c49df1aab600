import torch

from semires_trainer.refine.match import refine
from semires_trainer.refine.packed import ProposalBatch, pack
from semires_trainer.refine.tally import RefinementTally, count


def rows(*numbers):
    mask = torch.zeros((32, 32), dtype=torch.bool)
    mask[list(numbers)] = True
    return mask


def three_samples():
    """Truth is rows 0-3: one pseudo-label is improved, one made worse, one left alone."""
    pseudo = torch.stack([rows(0, 1, 2), rows(0, 1, 2, 3), rows(9)])
    samples = [torch.stack([rows(0, 1, 2, 3)]), torch.stack([rows(0, 1, 2, 3, 4)]), torch.stack([rows(20)])]
    proposals = ProposalBatch.stack([(pack(masks), masks.sum(dim=(1, 2))) for masks in samples])
    return pseudo, refine(pseudo, proposals, strategy="IOM"), rows(0, 1, 2, 3).expand(3, 32, 32)


def test_a_step_without_truth_counts_matches_only():
    pseudo, refinement, _ = three_samples()

    tally = RefinementTally.of(count(refinement, pseudo_BHW=pseudo))

    assert tally == RefinementTally(samples=3, matched=2, selected=2)


def test_a_step_with_truth_counts_what_helped_and_what_hurt():
    pseudo, refinement, truth = three_samples()

    tally = RefinementTally.of(count(refinement, pseudo_BHW=pseudo, truth_BHW=truth))

    assert tally == RefinementTally(samples=3, matched=2, selected=2, known=3, helped=1, hurt=1)


def test_counts_of_steps_add_up():
    pseudo, refinement, truth = three_samples()
    step = count(refinement, pseudo_BHW=pseudo, truth_BHW=truth)

    tally = RefinementTally.of(step + step)

    assert (tally.matched_share, tally.pwa_share) == (4 / 6, 2 / 6)
    assert (tally.mean_selected, tally.helped_share, tally.hurt_share) == (1, 2 / 6, 2 / 6)


def test_shares_of_nothing_are_zero():
    tally = RefinementTally()

    shares = {tally.matched_share, tally.pwa_share, tally.mean_selected, tally.helped_share, tally.hurt_share}

    assert shares == {0.0}


def test_an_empty_truth_and_an_empty_pseudo_label_count_as_no_change():
    nothing = torch.zeros((1, 32, 32), dtype=torch.bool)
    refinement = refine(nothing, ProposalBatch.empty(samples=1, height=32, width=32), strategy="CPI")

    tally = RefinementTally.of(count(refinement, pseudo_BHW=nothing, truth_BHW=nothing))

    assert (tally.known, tally.helped, tally.hurt) == (1, 0, 0)
