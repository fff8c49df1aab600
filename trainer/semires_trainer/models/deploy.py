"""The deployable folder: model.safetensors, vocab.txt and model.json, which holds the sha256 of both."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from semires_trainer.atomic import file_sha256, replace_directory
from semires_trainer.errors import WeightsError
from semires_trainer.models.lavt import LAVT, LAVTConfig
from semires_trainer.models.text import TextConfig
from semires_trainer.models.weights import fill, read_safetensors
from semires_trainer.tensor_file import write_tensors

SCHEMA_VERSION = 1
MODEL_FILE = "model.json"
TENSOR_FILE = "model.safetensors"
VOCAB_FILE = "vocab.txt"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """What a user of the model must know besides its weights."""

    image_size: int
    """Images are resized to this many pixels squared."""
    max_tokens: int
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Where the weights come from: free text and numbers, JSON only."""
    vocab: Path | None = None
    """The vocabulary the model was trained with; None if it must be given."""


def save_model(folder: Path, model: LAVT, info: ModelInfo) -> None:
    """Write the deployable folder, replacing an older one as a whole. Weights keep their precision."""
    with replace_directory(folder) as temporary:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        write_tensors(temporary / TENSOR_FILE, tensors, metadata={"format": "pt"})
        if info.vocab is not None:
            _copy_vocab(info.vocab, temporary / VOCAB_FILE)
        description = {
            "schemaVersion": SCHEMA_VERSION,
            "architecture": architecture_of(model.config),
            "imageSize": info.image_size,
            "maxTokens": info.max_tokens,
            "provenance": dict(info.provenance),
            "sha256": {file.name: file_sha256(file) for file in sorted(temporary.iterdir())},
        }
        text = json.dumps(description, indent=2, allow_nan=False) + "\n"
        (temporary / MODEL_FILE).write_text(text, encoding="utf-8")


def _copy_vocab(source: Path, destination: Path) -> None:
    try:
        shutil.copyfile(source, destination)
    except OSError as error:
        raise WeightsError(f"cannot read the vocabulary {source}: {error.strerror}", field="vocab") from error


def load_model(folder: Path) -> tuple[LAVT, ModelInfo]:
    """The model of a deployable folder, on the CPU and in eval mode, after its checksums were verified.

    Raises:
        WeightsError: a file is missing or damaged, or the tensors do not fit the architecture in model.json.
    """
    description = _read_description(folder)
    listed = description["sha256"]
    for name, digest in listed.items():
        _verify(folder / name, digest)
    config = _config_in(description, folder)
    try:
        info = ModelInfo(
            image_size=config.image_size,
            max_tokens=int(description["maxTokens"]),
            provenance=dict(description["provenance"]),
            vocab=folder / VOCAB_FILE if VOCAB_FILE in listed else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder / MODEL_FILE} does not describe a model: {error!r}") from error
    with torch.random.fork_rng(devices=[]):
        model = LAVT(config)
    path = folder / TENSOR_FILE
    fill(model, read_safetensors(path, field=""), where=str(path), field="")
    return model.eval(), info


def read_config(folder: Path) -> LAVTConfig:
    """The shape of the network in a deployable folder; no weight is read. Raises WeightsError as `load_model` does."""
    return _config_in(_read_description(folder), folder)


def _config_in(description: Mapping[str, Any], folder: Path) -> LAVTConfig:
    try:
        return config_of(description["architecture"], image_size=int(description["imageSize"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder / MODEL_FILE} does not describe a model: {error!r}") from error


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version, listed = description["schemaVersion"], description["sha256"]
    except FileNotFoundError as error:
        raise WeightsError(
            f"{folder} is no model folder: it has no {MODEL_FILE}",
            remedy="Give the folder 'model' of a run, or convert an official file with 'semires convert'",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} does not describe a model: {error!r}") from error
    if version != SCHEMA_VERSION:
        raise WeightsError(
            f"{path}: schemaVersion is {version!r}, not {SCHEMA_VERSION}", remedy="Use the semires that wrote it"
        )
    if not isinstance(listed, dict) or not {TENSOR_FILE} <= set(listed) <= {TENSOR_FILE, VOCAB_FILE}:
        raise WeightsError(f"{path}: sha256 must list {TENSOR_FILE} and at most {VOCAB_FILE}, got {listed!r}")
    return dict(description)


def _verify(path: Path, digest: str) -> None:
    if not path.is_file():
        raise WeightsError(f"{path} is missing", remedy="Copy the whole model folder again")
    if file_sha256(path) != digest:
        raise WeightsError(f"{path} is damaged: its sha256 is not {digest}", remedy="Copy the whole model folder again")


def architecture_of(config: LAVTConfig) -> dict[str, Any]:
    """JSON of the shape of the network (without the image size, which is no part of it)."""
    fields = dataclasses.asdict(config)
    del fields["image_size"]
    return fields


def config_of(architecture: Mapping[str, Any], *, image_size: int) -> LAVTConfig:
    """Inverse of `architecture_of`; raises TypeError or ValueError where it is not one."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in architecture.items()}
    fields["text"] = TextConfig(**architecture["text"])
    return LAVTConfig(**fields, image_size=image_size)
