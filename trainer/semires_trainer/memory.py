"""How much memory a training process needs, counted on the meta device: no weight is loaded, nothing is
computed.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from semires_trainer.config import Resolved, ResolvedModel
from semires_trainer.models.build import count_parameters, model_shape, parameter_groups
from semires_trainer.models.lavt import LAVT
from semires_trainer.schedule import burn_in_batches, mutual_batches

BF16_ACTIVATION_SHARE = 0.68
"""Saved activations under bf16 autocast over those in fp32, measured: norms, softmax and losses stay in fp32.
"""

FORMULA = (
    "4 bytes x (student + teacher + gradients of trained) + 8 bytes x trained (Adam) "
    "+ activations of one sample x images per micro-batch"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on the device of one training process, without loader, allocator and library overhead."""

    parameters: int
    """Of the student; the teacher has as many."""
    trained_parameters: int
    """Of these, in the optimizer."""
    model_bytes: int
    """Student and teacher in fp32."""
    gradient_bytes: int
    optimizer_bytes: int
    """Adam's two moments."""
    activation_bytes_per_sample: int
    """Tensors kept for the backward pass of one image with its sentence, fp32."""
    samples_per_micro_batch: int
    """Most images of the student's forward pass, labelled and unlabelled together."""
    total_fp32_bytes: int
    total_bf16_bytes: int
    """Under autocast; also holds a bf16 copy of the weights."""
    formula: str = FORMULA


def estimate_memory(resolved: Resolved, *, processes: int) -> MemoryEstimate:
    """Estimate for the stage that needs more.

    Raises ConfigError and WeightsError as the building of the model does.
    """
    training = resolved.training
    model = model_shape(_without_hub(resolved.model))
    parameter_groups(
        model,
        weight_decay=training.weight_decay,
        optimized_text_layers=training.optimized_text_layers,
        train_embeddings=training.train_embeddings,
    )
    burn_in = burn_in_batches(training, processes=processes)
    mutual = mutual_batches(training, processes=processes)
    samples = max(burn_in.labeled if training.burn_in_epochs else 0, mutual.labeled + mutual.unlabeled)
    per_sample = saved_activation_bytes(model, max_tokens=resolved.model.max_tokens)
    return memory_of(
        parameters=count_parameters(model),
        trained=count_parameters(model, trainable=True),
        activation_bytes_per_sample=per_sample,
        samples=samples,
    )


def memory_of(*, parameters: int, trained: int, activation_bytes_per_sample: int, samples: int) -> MemoryEstimate:
    """The formula, from counts."""
    fixed = 8 * parameters + 12 * trained
    activations = activation_bytes_per_sample * samples
    return MemoryEstimate(
        parameters=parameters,
        trained_parameters=trained,
        model_bytes=8 * parameters,
        gradient_bytes=4 * trained,
        optimizer_bytes=8 * trained,
        activation_bytes_per_sample=activation_bytes_per_sample,
        samples_per_micro_batch=samples,
        total_fp32_bytes=fixed + activations,
        total_bf16_bytes=fixed + 2 * parameters + round(activations * BF16_ACTIVATION_SHARE),
    )


def _without_hub(section: ResolvedModel) -> ResolvedModel:
    """With a text encoder of bert-base's size where the real one is on the hub: a plan downloads nothing."""
    if not section.bert.startswith("hf://"):
        return section
    return dataclasses.replace(section, bert="random", vocab=None)


def saved_activation_bytes(model: LAVT, *, max_tokens: int) -> int:
    """Bytes that autograd keeps for the backward pass of one sample, per storage, parameters left out.

    Runs the forward pass on the meta device in train mode; `model` must be there.
    """
    own = {StorageWeakRef(parameter.untyped_storage()).cdata for parameter in model.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # a freed storage's address would be given out again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        address = StorageWeakRef(storage).cdata
        if address not in own and address not in sizes:
            sizes[address] = storage.nbytes()
            alive.append(tensor)
        return tensor

    size = model.config.image_size
    model.train()
    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        image = torch.empty(1, 3, size, size)
        words = torch.ones(1, max_tokens, dtype=torch.long)
        model(image, words, words)
    return sum(sizes.values())
