"""Batch arithmetic and learning rate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from semires_trainer.config import ResolvedTraining
from semires_trainer.errors import ConfigError
from semires_trainer.optim import build_optimizer, poly_learning_rate, set_learning_rate
from semires_trainer.schedule import (
    StageName,
    burn_in_batches,
    burn_in_length,
    images_per_pass,
    mutual_batches,
    mutual_length,
    smaller_micro_batch,
)


@pytest.fixture
def paper(harness: ModuleType) -> ResolvedTraining:
    """The published batches: 12 + 12 and 8 in burn-in."""
    training = harness.resolved_of(harness.document_of(Path("data"), Path("out"))).training
    return replace(training, batch_labeled=12, batch_unlabeled=12, burn_in_batch=8, burn_in_epochs=40, epochs=40)


@pytest.mark.parametrize(
    ("processes", "micro_batch", "accumulation", "labeled", "unlabeled"),
    [
        pytest.param(1, None, 1, 12, 12, id="one-process"),
        pytest.param(4, None, 1, 3, 3, id="four-processes-as-published"),
        pytest.param(1, 24, 1, 12, 12, id="a-limit-that-fits"),
        pytest.param(1, 23, 2, 6, 6, id="a-limit-that-halves"),
        pytest.param(1, 7, 4, 3, 3, id="the-smallest-number-of-equal-parts"),
        pytest.param(2, 2, 6, 1, 1, id="one-of-each"),
    ],
)
def test_a_global_batch_is_dealt_and_cut(
    paper: ResolvedTraining, processes: int, micro_batch: int | None, accumulation: int, labeled: int, unlabeled: int
) -> None:
    plan = mutual_batches(replace(paper, micro_batch=micro_batch), processes=processes)

    assert (plan.accumulation, plan.labeled, plan.unlabeled) == (accumulation, labeled, unlabeled)
    assert plan.accumulation * plan.labeled * processes == 12


@pytest.mark.parametrize(("processes", "micro_batch", "accumulation"), [(1, None, 1), (2, 3, 2), (8, 1, 1)])
def test_burn_in_has_labelled_images_only(
    paper: ResolvedTraining, processes: int, micro_batch: int | None, accumulation: int
) -> None:
    plan = burn_in_batches(replace(paper, micro_batch=micro_batch), processes=processes)

    assert (plan.accumulation, plan.unlabeled) == (accumulation, 0)
    assert plan.accumulation * plan.labeled * processes == 8


def test_a_batch_that_cannot_be_dealt_is_refused(paper: ResolvedTraining) -> None:
    with pytest.raises(ConfigError, match=r"batch\.labeled: a global batch of 12 .* to 5 processes.*multiple of 5"):
        mutual_batches(paper, processes=5)


def test_a_limit_that_cannot_be_kept_is_refused_naming_the_least(paper: ResolvedTraining) -> None:
    with pytest.raises(ConfigError, match=r"microBatch: .* at most 1\. Use at least 2"):
        mutual_batches(replace(paper, micro_batch=1), processes=1)


@pytest.mark.parametrize(
    ("stage", "batches", "processes", "micro_batch", "used", "smaller"),
    [
        pytest.param("train", (12, 12, 8), 1, None, 24, 12, id="half"),
        pytest.param("train", (12, 12, 8), 1, 12, 12, 6, id="half-again"),
        pytest.param("train", (12, 12, 8), 1, 6, 6, 2, id="a-third-where-half-is-no-equal-part"),
        pytest.param("train", (12, 12, 8), 4, None, 6, 2, id="of-this-process"),
        pytest.param("train", (12, 12, 8), 4, 2, 2, None, id="one-of-each"),
        pytest.param("burn-in", (12, 12, 8), 1, None, 8, 4, id="burn-in"),
        pytest.param("burn-in", (12, 12, 8), 4, None, 2, None, id="one-image-would-stop-mutual-learning"),
        pytest.param("burn-in", (3, 2, 8), 1, None, 8, 5, id="the-other-stage-needs-five"),
        pytest.param("burn-in", (1, 0, 1), 1, None, 1, None, id="one-image"),
    ],
)
def test_the_next_smaller_micro_batch(
    paper: ResolvedTraining,
    stage: StageName,
    batches: tuple[int, int, int],
    processes: int,
    micro_batch: int | None,
    used: int,
    smaller: int | None,
) -> None:
    labeled, unlabeled, burn_in = batches
    training = replace(
        paper, batch_labeled=labeled, batch_unlabeled=unlabeled, burn_in_batch=burn_in, micro_batch=micro_batch
    )

    assert images_per_pass(training, stage, processes=processes) == used
    assert smaller_micro_batch(training, stage, processes=processes) == smaller
    if smaller:
        limited = replace(training, micro_batch=smaller)
        assert images_per_pass(limited, stage, processes=processes) <= used / 2


def test_the_published_lengths(paper: ResolvedTraining) -> None:
    """algorithm.md 1.5: 41,972 unlabelled refs at 1 % in batches of 12 are 3,497 steps an epoch."""
    assert mutual_length(paper, num_unlabeled=41_972).total_steps == 139_880
    assert burn_in_length(paper, num_labeled=432).total_steps == 40 * 54


def test_few_refs_make_an_epoch_of_one_step(paper: ResolvedTraining) -> None:
    assert burn_in_length(paper, num_labeled=3).steps_per_epoch == 1
    assert mutual_length(paper, num_unlabeled=3).steps_per_epoch == 1


def test_without_unlabelled_refs_there_is_no_mutual_learning(paper: ResolvedTraining) -> None:
    assert mutual_length(paper, num_unlabeled=0).total_steps == 0


@pytest.mark.parametrize(
    ("step", "horizon", "factor"),
    [
        pytest.param(0, "True", 1.0, id="begin"),
        pytest.param(50, "True", 0.5**0.9, id="half-way"),
        pytest.param(99, "True", 0.01**0.9, id="last-step"),
        pytest.param(0, "Doubled", 1.0, id="doubled-begin"),
        pytest.param(99, "Doubled", (1 - 99 / 200) ** 0.9, id="doubled-last-step"),
        pytest.param(100, "Doubled", 0.5359, id="doubled-ends-at-0.536"),
    ],
)
def test_the_learning_rate_is_polynomial(step: int, horizon: str, factor: float) -> None:
    rate = poly_learning_rate(step, total_steps=100, base=5e-5, power=0.9, horizon=horizon)

    assert rate == pytest.approx(5e-5 * factor, rel=1e-4)


def test_one_learning_rate_for_all_groups() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    groups = [{"params": [first], "weight_decay": 0.0}, {"params": [second], "weight_decay": 0.5}]
    optimizer = build_optimizer(groups, learning_rate=0.1, device=torch.device("cpu"))

    set_learning_rate(optimizer, 0.02)

    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.02, 0.0), (0.02, 0.5)]
