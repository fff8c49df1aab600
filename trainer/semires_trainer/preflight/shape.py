"""The shape of the network as its inputs tell it. Compared with the real network by a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from semires_trainer.config import Shape, TextShape, declared_shape
from semires_trainer.errors import WeightsError
from semires_trainer.fetch.job import BERT, INIT_FROM
from semires_trainer.fetch.sources import naming
from semires_trainer.publisher import MODEL_FILE
from semires_trainer.spec.resolved import ResolvedModel
from semires_trainer.storage import Storage


def shape_of(storage: Storage, section: ResolvedModel) -> Shape:
    """The network of a manifest whose vocabulary is local; small descriptions of weights are read.

    What only weights tell (those on the hub, official files) is taken to be of bert-base's size. WeightsError for a
    description that is none.
    """
    shape = declared_shape(section)
    description = f"{local(section.init_from)}/{MODEL_FILE}" if section.init_from else ""
    if section.init_from:
        return _described(storage, description) if storage.exists(description) else shape
    return replace(shape, text=_text(storage, section))


def _text(storage: Storage, section: ResolvedModel) -> TextShape:
    declared = declared_shape(section).text
    if section.text_dimensions is not None:
        return replace(declared, vocab_size=_count_words(section.vocab))
    if section.bert.startswith("hf://"):
        return declared
    uri = f"{local(section.bert)}/config.json"
    with naming(BERT, uri):
        found = _parsed(storage, uri, what="the config.json of a BERT model")
        try:
            return TextShape(
                vocab_size=int(found["vocab_size"]),
                hidden_size=int(found["hidden_size"]),
                layers=int(found["num_hidden_layers"]),
                intermediate_size=int(found["intermediate_size"]),
                max_positions=int(found["max_position_embeddings"]),
                token_types=int(found["type_vocab_size"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{uri} is not the config.json of a BERT model: {error!r}") from error


def _described(storage: Storage, uri: str) -> Shape:
    """As the model.json of a model folder says."""
    with naming(INIT_FROM, uri):
        try:
            found = _parsed(storage, uri, what="the description of a model")["architecture"]
            text = {name: int(found["text"][name]) for name in TextShape.__dataclass_fields__}
            return Shape(
                embed_dim=int(found["embed_dim"]),
                depths=tuple(map(int, found["depths"])),
                heads=tuple(map(int, found["heads"])),
                window=int(found["window"]),
                text=TextShape(**text),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{uri} does not describe a model: {error!r}") from error


def _parsed(storage: Storage, uri: str, *, what: str) -> Mapping[str, Any]:
    try:
        found = json.loads(storage.read_bytes(uri).data)
    except ValueError as error:
        raise WeightsError(f"{uri} is not {what}: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{uri} is not {what}")
    return found


def _count_words(vocab: str | None) -> int:
    """Entries of a local vocabulary file, one a line."""
    if vocab is None:
        return TextShape().vocab_size
    with Path(vocab).expanduser().open("rb") as lines:
        return sum(1 for _ in lines)


def local(uri: str) -> str:
    """A URI or path without what only people need."""
    return uri.rstrip("/") if uri.startswith("s3://") else str(Path(uri.removeprefix("file://")).expanduser())
