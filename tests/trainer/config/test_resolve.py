"""From manifest to resolved configuration: defaults, presets, numbers, identity."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from semires_trainer.config import (
    Resolved,
    SemiRESJob,
    cluster_only_fields,
    parse_job,
    resolve,
    resolved_to_dict,
    training_hash,
)

Jobs = Callable[..., SemiRESJob]


def at(resolved: object, path: str) -> Any:
    """The attribute at "training.epochs"."""
    for name in path.split("."):
        resolved = getattr(resolved, name)
    return resolved


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("dataset.evaluate", ("val", "testA", "testB"), id="splits"),
        pytest.param("dataset.labeled_percent", "1", id="percent-stays-a-string"),
        pytest.param("dataset.labeled_seed", 0, id="official-split"),
        pytest.param("proposals.store", "out/proposals", id="store-below-output"),
        pytest.param("proposals.felzenszwalb.sigma", 0.8, id="felzenszwalb"),
        pytest.param("model.backbone", "SwinBase", id="backbone"),
        pytest.param("model.depths", (2, 2, 18, 2), id="depths"),
        pytest.param("model.swin", "hf://timm/swin_base_patch4_window12_384.ms_in22k", id="swin"),
        pytest.param("model.bert", "hf://google-bert/bert-base-uncased", id="bert"),
        pytest.param("model.vocab", None, id="vocabulary-of-bert"),
        pytest.param("model.text_dimensions", None, id="sizes-of-bert"),
        pytest.param("model.drop_path", 0.3, id="drop-path"),
        pytest.param("training.learning_rate", 5e-5, id="learning-rate"),
        pytest.param("training.class_weights", (0.9, 1.1), id="class-weights"),
        pytest.param("training.batch_labeled", 12, id="batch"),
        pytest.param("training.jitter_hue", 0.25, id="jitter"),
        pytest.param("training.micro_batch", None, id="no-micro-batch"),
        pytest.param("training.checkpoint_interval_epochs", 1, id="checkpoint-each-epoch"),
        pytest.param("training.workers", None, id="workers-by-machine"),
    ],
)
def test_what_is_left_out_has_the_documented_default(path: str, expected: object, job: Jobs) -> None:
    assert at(resolve(job()), path) == expected


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        pytest.param(
            "Paper",
            ("CPI-U", 0.996, 1.0, "PerImage", "True", "Once", "AllExpressions", 5),
            id="paper",
        ),
        pytest.param(
            "OfficialCPI",
            ("CPI", 0.9996, 1.0, "PerRank", "Doubled", "Twice", "OneExpression", 5),
            id="official-cpi",
        ),
        pytest.param(
            "OfficialIOM",
            ("IOM", 0.9996, 10.0, "PerRank", "Doubled", "Twice", "AllExpressions", 0),
            id="official-iom",
        ),
    ],
)
def test_a_preset_sets_what_the_publications_differ_in(preset: str, expected: tuple[object, ...], job: Jobs) -> None:
    resolved = resolve(job({"spec.training.preset": preset}))

    training = resolved.training
    assert (
        resolved.refinement.strategy,
        training.ema_decay,
        training.supervised_weight,
        training.mixture,
        training.lr_horizon,
        training.strong_normalization,
        training.model_selection,
        training.patience,
    ) == expected


@pytest.mark.parametrize("preset", ["Paper", "OfficialCPI", "OfficialIOM"])
def test_a_given_value_wins_over_every_preset(preset: str, job: Jobs) -> None:
    changes = {"spec.training": {"preset": preset, "emaDecay": "0.5", "patience": 0, "classWeights": ["1", "2"]}}

    training = resolve(job(changes)).training

    assert (training.ema_decay, training.patience, training.class_weights) == (0.5, 0, (1.0, 2.0))


def test_a_strategy_chosen_against_the_preset_gets_its_own_threshold(job: Jobs) -> None:
    refinement = resolve(job({"spec.refinement.strategy": "IOM"})).refinement

    assert (refinement.strategy, refinement.iou) == ("IOM", 0.5)


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        pytest.param("RefCOCOPlus", ("val", "testA", "testB"), id="RefCOCO+"),
        pytest.param("GRefUMD", ("val", "test"), id="G-Ref-UMD"),
        pytest.param("GRefGoogle", ("val",), id="G-Ref-Google"),
        pytest.param("Custom", ("val",), id="custom"),
    ],
)
def test_each_dataset_has_its_splits(name: str, splits: tuple[str, ...], job: Jobs) -> None:
    assert resolve(job({"spec.dataset.name": name})).dataset.evaluate == splits


def test_a_custom_dataset_may_name_its_splits(job: Jobs) -> None:
    changes = {"spec.dataset.name": "Custom", "spec.dataset.evaluate": ["night", "day"]}

    assert resolve(job(changes)).dataset.evaluate == ("night", "day")


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        pytest.param("SwinTiny", (96, (2, 2, 6, 2), (3, 6, 12, 24), 7), id="tiny"),
        pytest.param("SwinSmall", (96, (2, 2, 18, 2), (3, 6, 12, 24), 7), id="small"),
        pytest.param("SwinBase", (128, (2, 2, 18, 2), (4, 8, 16, 32), 12), id="base"),
        pytest.param("SwinLarge", (192, (2, 2, 18, 2), (6, 12, 24, 48), 12), id="large"),
    ],
)
def test_a_backbone_stands_for_its_dimensions(backbone: str, expected: tuple[object, ...], job: Jobs) -> None:
    model = resolve(job({"spec.model.backbone": backbone})).model

    assert (model.embed_dim, model.depths, model.heads, model.window) == expected


def test_free_dimensions_have_no_backbone_and_start_as_told(job: Jobs) -> None:
    dimensions = {"embedDim": 16, "depths": [2, 2, 2, 2], "heads": [1, 2, 4, 8], "window": 7}

    model = resolve(job({"spec.model": {"dimensions": dimensions, "swin": "random"}})).model

    assert (model.backbone, model.embed_dim, model.heads, model.swin) == (None, 16, (1, 2, 4, 8), "random")


def test_a_random_bert_has_the_sizes_of_bert_base_unless_told(job: Jobs) -> None:
    changes = {"spec.model": {"bert": "random", "vocab": "vocab.txt", "textDimensions": {"layers": 2}}}

    text = resolve(job(changes)).model.text_dimensions

    assert text is not None
    assert (text.hidden_size, text.layers, text.max_positions) == (768, 2, 512)


def test_a_given_model_skips_burn_in(job: Jobs) -> None:
    resolved = resolve(job({"spec.model.initFrom": "burnt.safetensors"}))

    assert (resolved.training.burn_in_epochs, resolved.training.epochs) == (0, 40)


def test_only_the_section_of_the_generator_is_resolved(job: Jobs) -> None:
    proposals = resolve(job({"spec.proposals": {"sam": {"weights": "sam.pth"}}})).proposals

    assert proposals.sam is not None
    assert (proposals.sam.stability_score_threshold, proposals.felzenszwalb, proposals.precomputed) == (
        0.95,
        None,
        None,
    )


def test_an_interval_in_steps_replaces_the_one_in_epochs(job: Jobs) -> None:
    training = resolve(job({"spec.training.checkpoint.intervalSteps": 50})).training

    assert (training.checkpoint_interval_steps, training.checkpoint_interval_epochs) == (50, None)


def leaves(value: object) -> list[object]:
    """All values below nested dataclasses and tuples."""
    if dataclasses.is_dataclass(value):
        return [leaf for field in dataclasses.fields(value) for leaf in leaves(getattr(value, field.name))]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("preset", ["Paper", "OfficialCPI", "OfficialIOM"])
def test_nothing_of_the_preset_stays_open_or_a_decimal_string(preset: str, job: Jobs) -> None:
    resolved = resolve(job({"spec.training.preset": preset}))

    numbers = [leaf for leaf in leaves(resolved.training) + leaves(resolved.refinement) if isinstance(leaf, str)]
    assert not [text for text in numbers if text[:1].isdigit()]
    assert {
        field.name for field in dataclasses.fields(resolved.training) if at(resolved.training, field.name) is None
    } == {
        "micro_batch",
        "workers",
        "checkpoint_interval_steps",
        "keep_every",
    }


def test_a_resolved_job_cannot_be_changed(job: Jobs) -> None:
    resolved = resolve(job())

    with pytest.raises(dataclasses.FrozenInstanceError):
        resolved.training.epochs = 1  # type: ignore[misc]


def test_the_resolved_document_survives_json(job: Jobs) -> None:
    document = resolved_to_dict(resolve(job()))

    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert list(document) == ["name", "dataset", "proposals", "model", "refinement", "training", "output"]


def test_a_job_written_out_and_read_again_is_the_same_job(job: Jobs) -> None:
    first = job({"spec.training.emaDecay": "0.99", "spec.pod.env": [{"name": "A", "value": "1"}]})

    again = parse_job(json.loads(first.model_dump_json(by_alias=True, exclude_unset=True)))

    assert again == first


def hash_of(job: Jobs, changes: dict[str, Any] | None = None) -> str:
    resolved: Resolved = resolve(job(changes))
    return training_hash(resolved)


def test_the_identity_of_the_smallest_job_never_changes_by_accident(job: Jobs) -> None:
    assert hash_of(job) == "7156095a9d5a9f29059c3ebc28c98ababfe0170bfe884aa63389107907219f86"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"metadata.name": "other"}, id="name"),
        pytest.param({"spec.output": "elsewhere"}, id="output"),
        pytest.param({"spec.proposals.store": "shared/masks"}, id="store"),
        pytest.param({"spec.training.device": "CPU"}, id="device"),
        pytest.param({"spec.training.workers": 3}, id="workers"),
        pytest.param({"spec.training.microBatch": 1}, id="micro-batch"),
        pytest.param({"spec.dataset.badImageLimit": 0}, id="bad-images"),
        pytest.param({"spec.training.logIntervalSteps": 1}, id="logging"),
        pytest.param(
            {"spec.training.checkpoint": {"intervalSteps": 7, "keepLast": 9, "keepEvery": 2}}, id="checkpoint"
        ),
        pytest.param({"spec.resources.nodes": 2}, id="cluster"),
        pytest.param({"spec.training.emaDecay": "0.9960"}, id="same-number-written-otherwise"),
        pytest.param({"spec.refinement.strategy": "CPI-U"}, id="default-written-out"),
    ],
)
def test_how_a_job_is_run_does_not_change_its_identity(changes: dict[str, Any], job: Jobs) -> None:
    assert hash_of(job, changes) == hash_of(job)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"spec.training.emaDecay": "0.9961"}, id="decay"),
        pytest.param({"spec.training.seed": 1}, id="seed"),
        pytest.param({"spec.training.preset": "OfficialIOM"}, id="preset"),
        pytest.param({"spec.training.batch.unlabeled": 6}, id="batch"),
        pytest.param({"spec.dataset.labeled.percent": "2"}, id="percent"),
        pytest.param({"spec.dataset.images": "other.zip"}, id="images"),
        pytest.param({"spec.model.imageSize": 384}, id="image-size"),
        pytest.param({"spec.proposals.felzenszwalb": {"minSize": 5}}, id="proposals"),
        pytest.param({"spec.refinement.pwa.enabled": False}, id="pwa"),
    ],
)
def test_what_is_trained_changes_the_identity(changes: dict[str, Any], job: Jobs) -> None:
    assert hash_of(job, changes) != hash_of(job)


def test_sam_points_per_batch_do_not_change_the_identity(job: Jobs) -> None:
    one, other = ({"spec.proposals": {"sam": {"weights": "sam.pth", "pointsPerBatch": points}}} for points in (64, 8))

    assert hash_of(job, one) == hash_of(job, other)


def test_cluster_only_fields_are_named_in_the_order_of_the_documentation(job: Jobs) -> None:
    given = job(
        {
            "spec.queue": "team",
            "spec.suspend": False,
            "spec.ttlSecondsAfterFinished": 60,
            "spec.storage": {"endpoint": "default", "credentialsSecret": "s3"},
            "spec.healthPolicy": {"stalledSeconds": 900, "action": "Report"},  # the first is read here too
        }
    )

    assert cluster_only_fields(given) == [
        "spec.storage.credentialsSecret",
        "spec.healthPolicy.action",
        "spec.queue",
        "spec.suspend",
        "spec.ttlSecondsAfterFinished",
    ]


def test_a_local_job_has_no_cluster_only_fields(job: Jobs) -> None:
    assert cluster_only_fields(job()) == []
