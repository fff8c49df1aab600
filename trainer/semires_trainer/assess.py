"""Evaluate any model folder on the splits of a manifest, apart from a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from semires_trainer.config import Resolved
from semires_trainer.data.images import ImageSource
from semires_trainer.data.load import load_dataset
from semires_trainer.data.splits import LabeledSplit
from semires_trainer.data.tokenizer import Tokenizer
from semires_trainer.distributed import World, joined_world
from semires_trainer.evaluate import evaluate
from semires_trainer.exhaustion import EVALUATION, memory_errors
from semires_trainer.inputs import check_local_dataset
from semires_trainer.loaders import Loaders
from semires_trainer.materials import Materials, check_images
from semires_trainer.models.build import vocabulary_path
from semires_trainer.models.deploy import ModelInfo, load_model
from semires_trainer.models.lavt import LAVT
from semires_trainer.results import ORIGINAL, Results, Score
from semires_trainer.run import loader_workers, uses_bf16
from semires_trainer.stages import EVALUATION_BATCH
from semires_trainer.steps import Compute
from semires_trainer.telemetry import Phase, Reporter, open_reporter


def evaluate_folder(resolved: Resolved, checkpoint: Path) -> Results:
    """Scores of the model in `checkpoint` on `resolved.dataset.evaluate`; one process, nothing is written.

    Image size, sentence length and vocabulary are the model's own; what `resolved` says of them is not read.

    Raises:
        ConfigError: the data set is not local.
        WeightsError: no model folder, or damaged.
        DataError: a split without refs, a missing image, a damaged file.
    """
    check_local_dataset(resolved)
    model, info = load_model(checkpoint)
    with (
        joined_world(device=resolved.training.device, deterministic=resolved.training.deterministic) as world,
        memory_errors(EVALUATION, world),
    ):
        loaders = Loaders(
            resolved=with_model_of(resolved, info),
            materials=evaluation_materials(resolved, info),
            world=world,
            workers=loader_workers(resolved.training, world),
        )
        splits = resolved.dataset.evaluate
        units = sum(-(-len(loaders.evaluation(split)) // EVALUATION_BATCH) for split in splits)
        with open_reporter(None, job=resolved.name, phases=[Phase(name="evaluate", units=units)]) as reporter:
            scores = _score_splits(model.to(world.device), loaders, world, reporter)
    return Results(job=resolved.name, scores=tuple(scores), details={"checkpoint": str(checkpoint)})


def with_model_of(resolved: Resolved, info: ModelInfo) -> Resolved:
    """`resolved` with the image size and sentence length that the model was trained with."""
    section = dataclasses.replace(resolved.model, image_size=info.image_size, max_tokens=info.max_tokens)
    return dataclasses.replace(resolved, model=section)


def evaluation_materials(resolved: Resolved, info: ModelInfo) -> Materials:
    """Dataset, images and tokenizer for an evaluation: no split is drawn, train images may be absent."""
    vocab = info.vocab or vocabulary_path(resolved.model)
    materials = Materials(
        dataset=load_dataset(resolved.dataset),
        split=LabeledSplit(labeled_refs=(), unlabeled_refs=(), image_ids=()),
        images=ImageSource(resolved.dataset.images),
        tokenizer=Tokenizer(vocab, info.max_tokens),
        vocab=vocab,
    )
    check_images(materials, [ref for name in resolved.dataset.evaluate for ref in materials.dataset.refs_of(name)])
    return materials


def _score_splits(model: LAVT, loaders: Loaders, world: World, reporter: Reporter) -> list[Score]:
    resolved = loaders.resolved
    compute = Compute(
        world=world, bf16=uses_bf16(resolved.training, world), channels_last=resolved.training.channels_last
    )
    scores = []
    for split in resolved.dataset.evaluate:
        found = evaluate(
            model,
            loaders.evaluation(split),
            compute,
            reporter,
            batch_size=EVALUATION_BATCH,
            workers=loaders.workers,
        )
        sizes = {str(resolved.model.image_size): found.square, ORIGINAL: found.original}
        scores += [Score.of(metrics, model="model", split=split, size=size) for size, metrics in sizes.items()]
    return scores
