"""The shape of the network and what its weights weigh, without torch. Compared with the real network by a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from semires_trainer.errors import WeightsError
from semires_trainer.fetch.job import BERT, INIT_FROM
from semires_trainer.fetch.sources import naming
from semires_trainer.publisher import MODEL_FILE
from semires_trainer.spec.resolved import ResolvedModel
from semires_trainer.storage import Storage

PATCH, COLOURS, CLASSES = 4, 3, 2
MLP = 4
"""Width of a Swin block's feed-forward part, in channels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextShape:
    """Sizes of the text encoder; the defaults are those of bert-base-uncased."""

    vocab_size: int = 30522
    hidden_size: int = 768
    layers: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    token_types: int = 2

    @property
    def embeddings(self) -> int:
        """Parameters of the embeddings, their norm included."""
        return (self.vocab_size + self.max_positions + self.token_types + 2) * self.hidden_size

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        width, inner = self.hidden_size, self.intermediate_size
        return 4 * linear(width, width) + linear(width, inner) + linear(inner, width) + 2 * norm(width)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Everything that decides how many weights LAVT has."""

    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    text: TextShape

    @property
    def parameters(self) -> int:
        """Of the whole network."""
        return self.visual + self.text.embeddings + self.text.layers * self.text.layer

    @property
    def buffers(self) -> int:
        """Numbers in the state that are no parameters: mean, variance and count of the decoder's batch norms."""
        return 6 * (2 * 4 * self.embed_dim + 1)

    @property
    def visual(self) -> int:
        """Parameters of everything but the text encoder."""
        widths = [self.embed_dim << stage for stage in range(4)]
        patches = linear(COLOURS * PATCH**2, self.embed_dim) + norm(self.embed_dim)
        merges = sum(norm(2 * width) + 2 * width * width for width in widths[1:])
        blocks = sum(
            depth * self._block(width, heads)
            for width, depth, heads in zip(widths, self.depths, self.heads, strict=True)
        )
        fusions = sum(4 * linear(width, width) + 2 * linear(self.text.hidden_size, width) for width in widths)
        gates = sum(2 * width * width for width in widths[:-1])
        norms = sum(norm(width) for width in widths)
        return patches + merges + blocks + fusions + gates + norms + self._decoder()

    def trained(self, *, text_layers: int, embeddings: bool) -> int:
        """Parameters in the optimizer."""
        text = min(text_layers, self.text.layers) * self.text.layer + (self.text.embeddings if embeddings else 0)
        return self.visual + text

    def _block(self, width: int, heads: int) -> int:
        attention = 4 * linear(width, width) + (2 * self.window - 1) ** 2 * heads
        return attention + linear(width, MLP * width) + linear(MLP * width, width) + 2 * norm(width)

    def _decoder(self) -> int:
        hidden = 4 * self.embed_dim
        coarse, fine = (8 * self.embed_dim, hidden, hidden), (hidden, 2 * self.embed_dim, self.embed_dim)
        merges = sum(
            9 * (below + beside) * hidden + 9 * hidden * hidden + 2 * norm(hidden)
            for below, beside in zip(coarse, fine, strict=True)
        )
        return merges + linear(hidden, CLASSES)


def linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer with biases."""
    return inputs * outputs + outputs


def norm(width: int) -> int:
    """Parameters of a norm."""
    return 2 * width


def shape_of(storage: Storage, section: ResolvedModel) -> Shape:
    """The network of a manifest whose vocabulary is local; small descriptions of weights are read.

    What only weights tell (those on the hub, official files) is taken to be of bert-base's size. WeightsError for a
    description that is none.
    """
    shape = Shape(
        embed_dim=section.embed_dim,
        depths=section.depths,
        heads=section.heads,
        window=section.window,
        text=TextShape(),
    )
    description = f"{local(section.init_from)}/{MODEL_FILE}" if section.init_from else ""
    if section.init_from:
        return _described(storage, description) if storage.exists(description) else shape
    return replace(shape, text=_text(storage, section))


def _text(storage: Storage, section: ResolvedModel) -> TextShape:
    sizes = section.text_dimensions
    if sizes is not None:
        return TextShape(
            vocab_size=_count_words(section.vocab),
            hidden_size=sizes.hidden_size,
            layers=sizes.layers,
            intermediate_size=sizes.intermediate_size,
            max_positions=sizes.max_positions,
        )
    if section.bert.startswith("hf://"):
        return TextShape()
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
