"""Sizes that are computed without torch are those of the real network and its checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import skimage.data
import torch

from semires_trainer.checkpoint import Contents
from semires_trainer.config import Resolved, checkpoint_bytes, model_bytes, parse_job, resolve
from semires_trainer.models.build import count_parameters, model_shape, parameter_groups
from semires_trainer.models.deploy import ModelInfo, save_model
from semires_trainer.optim import build_optimizer
from semires_trainer.preflight.room import checkpoints_kept, proposal_bytes, room_needed
from semires_trainer.preflight.shape import shape_of
from semires_trainer.proposals.build import build_key, build_proposer
from semires_trainer.proposals.packed_cache import PackedCache
from semires_trainer.proposals.store import ProposalStore
from semires_trainer.storage import Storage


def resolved_of(document: dict[str, Any], **spec: Any) -> Resolved:
    return resolve(parse_job({**document, "spec": {**document["spec"], "output": "out", **spec}}))


@pytest.mark.parametrize("backbone", ["SwinTiny", "SwinSmall", "SwinBase", "SwinLarge"])
@pytest.mark.parametrize("text", [{}, {"hiddenSize": 128, "layers": 3, "heads": 2, "intermediateSize": 256}])
def test_parameters_are_those_of_the_network(
    tiny_document: dict[str, Any], backbone: str, text: dict[str, Any]
) -> None:
    model = {**tiny_document["spec"]["model"], "backbone": backbone, "textDimensions": text}
    del model["dimensions"]
    section = resolved_of(tiny_document, model=model).model

    with Storage() as storage:
        shape = shape_of(storage, section)

    network = model_shape(section)
    assert shape.parameters == count_parameters(network)
    assert shape.buffers == sum(
        buffer.numel() for name, buffer in network.named_buffers() if name in network.state_dict()
    )


@pytest.mark.parametrize(("layers", "embeddings"), [(10, False), (12, True), (0, False)])
def test_trained_parameters_are_those_of_the_optimizer(
    tiny_document: dict[str, Any], layers: int, embeddings: bool
) -> None:
    model = {**tiny_document["spec"]["model"], "backbone": "SwinTiny"}
    del model["dimensions"], model["textDimensions"]
    section = resolved_of(tiny_document, model=model).model
    network = model_shape(section)
    parameter_groups(network, weight_decay=0.0, optimized_text_layers=layers, train_embeddings=embeddings)

    with Storage() as storage:
        trained = shape_of(storage, section).trained(text_layers=layers, embeddings=embeddings)

    assert trained == count_parameters(network, trainable=True)


def test_a_checkpoint_takes_what_is_computed_and_a_header(tiny_document: dict[str, Any]) -> None:
    resolved = resolved_of(tiny_document)
    network = model_shape(resolved.model).to_empty(device="cpu")
    training = resolved.training
    groups = parameter_groups(
        network,
        weight_decay=0.0,
        optimized_text_layers=training.optimized_text_layers,
        train_embeddings=training.train_embeddings,
    )
    optimizer = build_optimizer(groups, learning_rate=0.0, device=torch.device("cpu"))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    moments = {f"{i}/{key}": value for i, each in enumerate(optimizer.state.values()) for key, value in each.items()}
    state = network.state_dict()
    real = Contents(tensors={"student": state, "teacher": state, "optimizer": moments}, state={}).bytes

    with Storage() as storage:
        computed = checkpoint_bytes(resolved, shape_of(storage, resolved.model))

    assert 0.995 < computed / real < 1.005


def test_a_model_folder_to_start_from_tells_its_own_sizes(tiny_document: dict[str, Any], tmp_path: Path) -> None:
    resolved = resolved_of(tiny_document)
    network = model_shape(resolved.model).to_empty(device="cpu")
    save_model(tmp_path / "start", network, ModelInfo(image_size=64, max_tokens=16))
    section = dataclasses.replace(resolved.model, init_from=str(tmp_path / "start"), embed_dim=512, bert="hf://other")

    with Storage() as storage:
        shape = shape_of(storage, section)

    assert shape.parameters == count_parameters(network)
    size = (tmp_path / "start" / "model.safetensors").stat().st_size
    assert 0.9 < model_bytes(shape) / size < 1.0


def test_masks_of_a_photo_take_no_more_than_is_computed(tiny_document: dict[str, Any], tmp_path: Path) -> None:
    model = {**tiny_document["spec"]["model"], "imageSize": 480}
    resolved = resolved_of(tiny_document, model=model, proposals={"generator": "Felzenszwalb"})
    proposer = build_proposer(resolved.proposals)
    store = ProposalStore(tmp_path, build_key(resolved.proposals))
    writer = store.writer()
    photo = skimage.data.astronaut()
    writer.add("0" * 64, proposer.propose(photo), height=photo.shape[0], width=photo.shape[1])
    writer.flush()
    PackedCache(store, 480).build()

    real = sum(path.stat().st_size for path in store.folder.rglob("*.safetensors"))

    assert 0.2 < real / proposal_bytes(resolved) < 1.0


def test_room_counts_what_goes_to_the_node(tiny_document: dict[str, Any]) -> None:
    with Storage() as storage:
        here = resolved_of(tiny_document)
        shape = shape_of(storage, here.model)
    there = resolved_of(tiny_document, output="s3://bucket/out")
    sized = {"input_bytes": 100 << 30, "train_images": 10}

    assert room_needed(here, shape, **sized) == (110 << 30)
    assert room_needed(there, shape, **sized) > (110 << 30) + 5 * checkpoint_bytes(there, shape)


def test_milestones_are_kept(tiny_document: dict[str, Any]) -> None:
    training = {**tiny_document["spec"]["training"], "burnInEpochs": 10, "epochs": 21}

    plain = resolved_of(tiny_document, training={**training, "checkpoint": {"keepLast": 2}})
    kept = resolved_of(tiny_document, training={**training, "checkpoint": {"keepLast": 2, "keepEvery": 5}})

    assert (checkpoints_kept(plain), checkpoints_kept(kept)) == (5, 11)
