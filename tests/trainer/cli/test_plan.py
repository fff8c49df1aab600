"""plan says what a run would do without loading a weight or writing a file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from semires_trainer.config import Resolved
from semires_trainer.memory import estimate_memory, memory_of, saved_activation_bytes
from semires_trainer.models.build import build_model, model_shape
from semires_trainer.plan import build_plan


def test_counts_and_steps_are_those_of_the_dataset_and_the_batches(resolved: Resolved) -> None:
    plan = build_plan(resolved)

    assert plan.dataset is not None
    assert (plan.dataset.labeled.images, plan.dataset.unlabeled.images) == (4, 4)
    assert list(plan.dataset.evaluated) == ["val", "testA", "testB"]
    burn_in, train = plan.stages
    assert burn_in.total_steps == 2 * (plan.dataset.labeled.refs // 4)
    assert train.total_steps == 3 * (plan.dataset.unlabeled.refs // 4)
    assert (plan.problems, plan.exit_code) == ((), 0)


def test_the_global_batch_is_dealt_to_processes(resolved: Resolved) -> None:
    train = build_plan(resolved, processes=2).stages[1]

    assert (train.labeled_per_step, train.unlabeled_per_step) == (2, 4)
    assert (train.accumulation, train.labeled_per_micro_batch, train.unlabeled_per_micro_batch) == (1, 1, 2)


def test_nothing_is_written(semires, job: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))

    assert semires("plan", job).exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_after_propose_the_store_is_full_and_the_oracle_known(semires, job: Path, resolved: Resolved) -> None:
    before = build_plan(resolved).proposals
    assert before is not None
    assert (before.images, before.cached, before.oracle_mean_iou) == (8, 0, None)

    assert semires("propose", job).exit_code == 0
    after = build_plan(resolved).proposals

    assert after is not None
    assert (after.cached, after.oracle_refs) == (8, build_plan(resolved).dataset.labeled.refs)
    assert 0 < (after.oracle_mean_iou or 0) <= 1


def test_the_table_and_the_json_tell_the_same(semires, job: Path) -> None:
    table, document = semires("plan", job).stdout, json.loads(semires("plan", job, "--json").stdout)

    assert f"identity {document['identity'][:12]}" in table
    assert f"{document['memory']['parameters'] / 1e6:.2f} M" in table
    assert f"of {document['proposals']['images']} images" in table
    assert "Nothing is missing." in table


def test_one_missing_file_does_not_hide_the_next(resolved: Resolved, tmp_path: Path) -> None:
    changed = dataclasses.replace(
        resolved,
        dataset=dataclasses.replace(resolved.dataset, annotations=str(tmp_path / "nowhere")),
        model=dataclasses.replace(resolved.model, swin=str(tmp_path / "swin.pth")),
    )

    plan = build_plan(changed)

    text = "\n".join(plan.problems)
    assert "nowhere" in text
    assert "spec.model.swin" in text
    assert plan.exit_code == 3
    assert plan.memory is not None


@pytest.mark.parametrize(
    ("trained", "found"), [pytest.param("burn-in", True, id="trained"), pytest.param("", False, id="only-proposed")]
)
def test_an_output_in_which_another_run_trained_is_a_problem(
    semires, job: Path, resolved: Resolved, trained: str, found: bool
) -> None:
    """As for `run`, which replaces the record of a start that trained nothing."""
    semires("propose", job)
    (Path(resolved.output) / trained).mkdir(exist_ok=True)
    (Path(resolved.output) / trained / "file").touch()

    plan = build_plan(dataclasses.replace(resolved, training=dataclasses.replace(resolved.training, epochs=9)))

    assert any("holds the run" in problem for problem in plan.problems) is found


def test_a_hub_repository_is_announced_and_not_fetched(resolved: Resolved) -> None:
    changed = dataclasses.replace(
        resolved, model=dataclasses.replace(resolved.model, bert="hf://nobody/nothing", text_dimensions=None)
    )

    plan = build_plan(changed)

    assert plan.downloads == ("hf://nobody/nothing",)
    assert plan.memory is not None
    assert plan.memory.parameters > 100e6


def test_memory_follows_the_stated_formula() -> None:
    estimate = memory_of(parameters=100, trained=60, activation_bytes_per_sample=1000, samples=3)

    assert estimate.model_bytes == 4 * (100 + 100)
    assert (estimate.gradient_bytes, estimate.optimizer_bytes) == (4 * 60, 8 * 60)
    assert estimate.total_fp32_bytes == 800 + 240 + 480 + 3000
    assert estimate.total_bf16_bytes < estimate.total_fp32_bytes


def test_parameters_are_those_of_the_model_that_would_be_built(resolved: Resolved) -> None:
    built = build_model(resolved.model, seed=0)

    assert estimate_memory(resolved, processes=1).parameters == sum(p.numel() for p in built.parameters())


def test_activations_of_four_times_the_pixels_are_about_four_times_as_large(resolved: Resolved) -> None:
    sizes = [
        saved_activation_bytes(model_shape(dataclasses.replace(resolved.model, image_size=side)), max_tokens=8)
        for side in (64, 128)
    ]

    assert sizes[1] / sizes[0] == pytest.approx(4, rel=0.1)


def test_what_lies_on_s3_is_known_later_and_no_problem(semires, job: Path, data: Path) -> None:
    far = ("--set", "dataset.annotations=s3://bucket/refer", "--output", "s3://bucket/results")

    result = semires("plan", job, *far)

    assert result.exit_code == 0, result.output
    assert "as it lies on s3://: data set, proposals, checkpoint" in result.stdout
    assert "Fetched when the run starts: s3://bucket/refer" in result.stdout
    assert "Nothing that lies here is missing." in result.stdout
