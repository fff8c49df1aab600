"""From manifest to resolved configuration: the preset fills what was left out, strings become numbers.
Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, cast

from semires_trainer.presets import BY_PATH, PresetName
from semires_trainer.spec.data import SPLITS, Dataset, Felzenszwalb, Proposals
from semires_trainer.spec.model import Model, Refinement, TextDimensions
from semires_trainer.spec.resolved import (
    Resolved,
    ResolvedDataset,
    ResolvedFelzenszwalb,
    ResolvedModel,
    ResolvedPrecomputed,
    ResolvedProposals,
    ResolvedPwa,
    ResolvedRefinement,
    ResolvedSam,
    ResolvedTextDimensions,
    ResolvedTraining,
)
from semires_trainer.spec.scalars import Section, holds_decimals
from semires_trainer.spec.training import Training

_SMALL, _LARGE = "window7_224.ms_in22k", "window12_384.ms_in22k"
BACKBONES: dict[str, tuple[dict[str, Any], str]] = {
    "SwinTiny": (
        {"embed_dim": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7},
        f"hf://timm/swin_tiny_patch4_{_SMALL}",
    ),
    "SwinSmall": (
        {"embed_dim": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "window": 7},
        f"hf://timm/swin_small_patch4_{_SMALL}",
    ),
    "SwinBase": (
        {"embed_dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "window": 12},
        f"hf://timm/swin_base_patch4_{_LARGE}",
    ),
    "SwinLarge": (
        {"embed_dim": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48), "window": 12},
        f"hf://timm/swin_large_patch4_{_LARGE}",
    ),
}
"""Sizes of the published backbones and the weights they start from."""

NOT_TRAINED = frozenset(
    {
        "device",
        "workers",
        "micro_batch",
        "checkpoint_interval_steps",
        "checkpoint_interval_epochs",
        "keep_last",
        "keep_every",
        "log_interval_steps",
    }
)
"""Fields of `training` that say how to run, not what to train: they may change between two starts of a
run."""


def values_of(section: Section, path: str, preset: PresetName) -> dict[str, Any]:
    """The section's values by snake_case name: the preset fills what was left out, decimals are floats.

    `path` is the section's place below `spec` ("training.jitter"); subsections become nested dictionaries.
    """
    values: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        place = f"{path}.{info.alias}"
        value = getattr(section, name)
        if value is None and place in BY_PATH:
            value = BY_PATH[place].value(preset)
        if isinstance(value, Section):
            value = values_of(value, place, preset)
        elif value is not None and holds_decimals(info):
            value = tuple(map(float, value)) if isinstance(value, tuple) else float(value)
        values[name] = value
    return values


def resolve_dataset(dataset: Dataset) -> ResolvedDataset:
    """Fill in the splits of the dataset."""
    labeled = dataset.labeled
    return ResolvedDataset(
        name=dataset.name,
        annotations=dataset.annotations,
        images=dataset.images,
        labeled_percent=labeled.percent,
        labeled_seed=labeled.seed,
        # The ids are a set, to the API server too: their order must not make another run of it.
        labeled_image_ids=None if labeled.image_ids is None else tuple(sorted(labeled.image_ids)),
        labeled_image_ids_file=labeled.image_ids_file,
        unlabeled_limit=dataset.unlabeled_limit,
        bad_image_limit=dataset.bad_image_limit,
        evaluate=dataset.evaluate or SPLITS[dataset.name],
    )


def resolve_proposals(proposals: Proposals, preset: PresetName, *, output: str) -> ResolvedProposals:
    """Keep the section of the generator; the store defaults to <output>/proposals."""
    values = values_of(proposals, "proposals", preset)
    sam, felzenszwalb, precomputed = (values[name] for name in ("sam", "felzenszwalb", "precomputed"))
    if proposals.generator == "Felzenszwalb" and felzenszwalb is None:
        felzenszwalb = values_of(Felzenszwalb(), "proposals.felzenszwalb", preset)
    return ResolvedProposals(
        generator=proposals.generator,
        sam=ResolvedSam(**sam) if sam else None,
        felzenszwalb=ResolvedFelzenszwalb(**felzenszwalb) if felzenszwalb else None,
        precomputed=ResolvedPrecomputed(**precomputed) if precomputed else None,
        store=proposals.store or f"{output.rstrip('/')}/proposals",
    )


def resolve_model(model: Model, preset: PresetName) -> ResolvedModel:
    """Look up the sizes and weights of a published backbone, or take the given dimensions."""
    values = values_of(model, "model", preset)
    dimensions, text = values.pop("dimensions"), None
    if dimensions is None:
        values["backbone"] = model.backbone or "SwinBase"
        dimensions, public = BACKBONES[values["backbone"]]
        values["swin"] = model.swin or public
    else:
        values["swin"] = model.swin or "random"
    if model.bert == "random":
        sizes = model.text_dimensions or TextDimensions()
        text = ResolvedTextDimensions(**values_of(sizes, "model.textDimensions", preset))
    return ResolvedModel(**(values | dimensions | {"text_dimensions": text}))


def resolve_refinement(refinement: Refinement, preset: PresetName) -> ResolvedRefinement:
    """Apply the preset to `spec.refinement`."""
    values = values_of(refinement, "refinement", preset)
    return ResolvedRefinement(**(values | {"pwa": ResolvedPwa(**values["pwa"])}))


def resolve_training(training: Training, *, skip_burn_in: bool) -> ResolvedTraining:
    """Apply the preset to `spec.training`; `skip_burn_in` when the model starts from a checkpoint."""
    values = values_of(training, "training", training.preset)
    checkpoint = values.pop("checkpoint")
    for prefix in ("batch", "jitter"):
        values |= {f"{prefix}_{name}": value for name, value in values.pop(prefix).items()}
    by_epoch = None if checkpoint["interval_steps"] else (checkpoint["interval_epochs"] or 1)
    values |= {
        "burn_in_epochs": 0 if skip_burn_in else values["burn_in_epochs"],
        "checkpoint_interval_steps": checkpoint["interval_steps"],
        "checkpoint_interval_epochs": by_epoch,
        "keep_last": checkpoint["keep_last"],
        "keep_every": checkpoint["keep_every"],
    }
    return ResolvedTraining(**values)


def resolved_to_dict(resolved: Resolved) -> dict[str, Any]:
    """Nested dictionaries and lists, ready for JSON, in the order of the fields."""
    return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(resolved))))


def training_hash(resolved: Resolved) -> str:
    """sha256 (hex) over what determines the trained model: dataset, proposals, model, refinement, training.

    Left out: name and output, where the proposals are stored, how many SAM points are decoded at once, how many
    bad images are tolerated (which sample replaces another does not depend on it, and who raises it after a stop
    goes on from the last checkpoint), and the fields of `NOT_TRAINED`. Two runs with the same hash may continue
    each other.
    """
    document = resolved_to_dict(resolved)
    del document["name"], document["output"], document["proposals"]["store"], document["dataset"]["bad_image_limit"]
    if document["proposals"]["sam"]:
        del document["proposals"]["sam"]["points_per_batch"]
    document["training"] = {key: value for key, value in document["training"].items() if key not in NOT_TRAINED}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
