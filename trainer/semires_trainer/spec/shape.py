"""The shape of the network and what its weights weigh, counted without torch."""

from __future__ import annotations

from dataclasses import dataclass

from semires_trainer.spec.resolved import Resolved, ResolvedModel

FLOAT_BYTES = 4
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


def declared_shape(model: ResolvedModel) -> Shape:
    """The network as the manifest itself tells it. What only weights tell is taken to be bert-base-uncased's."""
    sizes = model.text_dimensions
    text = TextShape()
    if sizes is not None:
        text = TextShape(
            hidden_size=sizes.hidden_size,
            layers=sizes.layers,
            intermediate_size=sizes.intermediate_size,
            max_positions=sizes.max_positions,
        )
    return Shape(embed_dim=model.embed_dim, depths=model.depths, heads=model.heads, window=model.window, text=text)


def model_bytes(shape: Shape) -> int:
    """Of one set of weights."""
    return FLOAT_BYTES * (shape.parameters + 2 * shape.buffers)


def checkpoint_bytes(resolved: Resolved, shape: Shape) -> int:
    """Of one checkpoint of mutual learning: student, teacher, two moments of what is trained."""
    training = resolved.training
    trained = shape.trained(text_layers=training.optimized_text_layers, embeddings=training.train_embeddings)
    return 2 * model_bytes(shape) + 2 * FLOAT_BYTES * trained
