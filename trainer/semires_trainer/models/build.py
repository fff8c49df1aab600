"""From the manifest's model section to a network with its starting weights, and to the optimizer's groups."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from semires_trainer.errors import ConfigError, WeightsError
from semires_trainer.models.convert import read_official
from semires_trainer.models.deploy import MODEL_FILE, VOCAB_FILE, load_model, read_config
from semires_trainer.models.lavt import LAVT, LAVTConfig
from semires_trainer.models.pretrained import load_bert, load_swin, read_text_config
from semires_trainer.models.text import TextConfig
from semires_trainer.models.weights import fill, locate

RANDOM = "random"
_NO_DECAY = ("norm", "relative_position_bias_table")


class TextDimensions(Protocol):
    """Dimensions of a text encoder with random weights."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def max_positions(self) -> int: ...


class ModelSection(Protocol):
    """What is read of the resolved manifest (`resolved.model`)."""

    @property
    def embed_dim(self) -> int: ...
    @property
    def depths(self) -> tuple[int, ...]: ...
    @property
    def heads(self) -> tuple[int, ...]: ...
    @property
    def window(self) -> int: ...
    @property
    def image_size(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def drop_path(self) -> float: ...
    @property
    def swin(self) -> str: ...
    @property
    def bert(self) -> str: ...
    @property
    def vocab(self) -> str | None: ...
    @property
    def text_dimensions(self) -> TextDimensions | None: ...
    @property
    def init_from(self) -> str | None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Checkpoint:
    config: LAVTConfig
    state: dict[str, Tensor]


def build_model(section: ModelSection, *, seed: int, text_dropout: float = 0.1) -> LAVT:
    """LAVT on the CPU in train mode, with the weights that the section asks for.

    Random weights are a function of `seed` alone; the global random state is left as it was. With `init_from`
    all weights, and the text encoder's dimensions, are those of the checkpoint.

    Raises:
        ConfigError: dimensions that contradict each other.
        WeightsError: a source is missing, unsafe, or of another architecture.
    """
    checkpoint = _read_checkpoint(section) if section.init_from else None
    config = _config(section, checkpoint, text_dropout=text_dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LAVT(config)
    if checkpoint is not None:
        fill(model, checkpoint.state, where=str(section.init_from), field="spec.model.initFrom")
        return model
    if section.swin != RANDOM:
        load_swin(model.backbone, section.swin)
    if section.bert != RANDOM:
        load_bert(model.text, section.bert)
    return model


def model_shape(section: ModelSection) -> LAVT:
    """The network without storage, for counting parameters; reads configurations, no weights.

    With a folder as `init_from` it is that of the folder. An official file tells its dimensions by its tensors only:
    then the text encoder is that of the section, which is the same one unless the manifest is wrong.
    """
    folder = Path(section.init_from).expanduser() if section.init_from else None
    config = read_config(folder) if folder and folder.is_dir() else _config(section, None, text_dropout=0.1)
    with torch.device("meta"):
        return LAVT(config)


def vocabulary_path(section: ModelSection) -> Path:
    """The tokenizer's file: `vocab`, else vocab.txt of a folder `init_from`, else vocab.txt of `bert`."""
    if section.vocab:
        return locate(section.vocab, (VOCAB_FILE,), field="spec.model.vocab")
    if section.init_from and (Path(section.init_from).expanduser() / VOCAB_FILE).is_file():
        return Path(section.init_from).expanduser() / VOCAB_FILE
    return locate(section.bert, (VOCAB_FILE,), field="spec.model.bert")


def _config(section: ModelSection, checkpoint: _Checkpoint | None, *, text_dropout: float) -> LAVTConfig:
    text = _text_config(section, checkpoint, dropout=text_dropout)
    if section.max_tokens > text.max_positions:
        raise ConfigError(
            f"is {section.max_tokens}, but the text encoder has {text.max_positions} positions",
            field="spec.model.maxTokens",
            remedy=f"Set at most {text.max_positions}",
        )
    try:
        return LAVTConfig(
            embed_dim=section.embed_dim,
            depths=section.depths,
            heads=section.heads,
            window=section.window,
            image_size=section.image_size,
            drop_path=section.drop_path,
            fusion_heads=checkpoint.config.fusion_heads if checkpoint else (1, 1, 1, 1),
            text=text,
        )
    except ValueError as error:
        raise ConfigError(str(error), field="spec.model.dimensions", remedy="Change heads or embedDim") from error


def _text_config(section: ModelSection, checkpoint: _Checkpoint | None, *, dropout: float) -> TextConfig:
    if checkpoint is not None:
        return dataclasses.replace(checkpoint.config.text, dropout=dropout)
    if section.bert != RANDOM:
        return read_text_config(section.bert, dropout=dropout)
    vocab_size = count_words(vocabulary_path(section)) if section.vocab else TextConfig().vocab_size
    sizes = section.text_dimensions
    if sizes is None:
        return TextConfig(vocab_size=vocab_size, dropout=dropout)
    try:
        return TextConfig(
            vocab_size=vocab_size,
            hidden_size=sizes.hidden_size,
            layers=sizes.layers,
            heads=sizes.heads,
            intermediate_size=sizes.intermediate_size,
            max_positions=sizes.max_positions,
            dropout=dropout,
        )
    except ValueError as error:
        raise ConfigError(str(error), field="spec.model.textDimensions", remedy="Change heads") from error


def count_words(vocab: Path) -> int:
    """Entries of a BERT vocabulary file, one a line."""
    try:
        with vocab.open(encoding="utf-8") as lines:
            return sum(1 for _ in lines)
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"cannot read the vocabulary {vocab}: {error}", field="spec.model.vocab") from error


def _read_checkpoint(section: ModelSection) -> _Checkpoint:
    """A deployable folder, or an official LAVT or SemiRES checkpoint."""
    source, field = str(section.init_from), "spec.model.initFrom"
    path = Path(source).expanduser()
    if path.is_file():
        heads = section.text_dimensions.heads if section.text_dimensions else None
        official = read_official(path, text_heads=heads, field=field)
        return _Checkpoint(config=official.config, state=official.state)
    if path.is_dir():
        model, _ = load_model(path)
        return _Checkpoint(config=model.config, state=model.state_dict())
    raise WeightsError(
        f"no checkpoint at {source}",
        field=field,
        remedy=f"Give a local folder with {MODEL_FILE}, or an official checkpoint file",
    )


def parameter_groups(
    model: LAVT, *, weight_decay: float, optimized_text_layers: int = 10, train_embeddings: bool = False
) -> list[dict[str, Any]]:
    """Optimizer groups `{name, params, weight_decay}` as published: in the visual half, norms and position
    biases are not decayed; its other biases, the gates, the decoder's batch norms and BERT's layers are.

    Whatever is in no group gets `requires_grad` False; gradients still flow through it to what lies before.
    By default these are BERT's embeddings and its layers from the eleventh on: the published code never
    updates them.
    """
    visual = [
        (f"{part}.{name}", parameter)
        for part in ("backbone", "fusions", "gates", "norms")
        for name, parameter in getattr(model, part).named_parameters()
    ]
    text = [p for layer in model.text.encoder.layer[:optimized_text_layers] for p in layer.parameters()]
    if train_embeddings:
        text += model.text.embeddings.parameters()
    groups = {
        "visual_no_decay": [p for name, p in visual if any(part in name for part in _NO_DECAY)],
        "visual": [p for name, p in visual if not any(part in name for part in _NO_DECAY)],
        "decoder": list(model.decoder.parameters()),
        "text": text,
    }
    trained = {id(parameter) for params in groups.values() for parameter in params}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return [
        {"name": name, "params": params, "weight_decay": 0.0 if name == "visual_no_decay" else weight_decay}
        for name, params in groups.items()
        if params
    ]


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters, or of those with `requires_grad`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)
