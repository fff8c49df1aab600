"""Starting weights of the two halves: a Swin classifier's file and a BERT folder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import BertModel

from semires_trainer.errors import WeightsError
from semires_trainer.models.swin import SwinBackbone
from semires_trainer.models.text import TextConfig
from semires_trainer.models.weights import WEIGHT_FILES, fill, locate, read_state

_SWIN_IGNORED = re.compile(r"^(norm|head)\.|relative_position_index$|attn_mask$")
"""The classifier's last norm and head; buffers that follow from the window size."""
_BERT_IGNORED = re.compile(r"^(cls|pooler)\.|embeddings\.position_ids$")
_BERT_SETTINGS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
}
_BERT_FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}
"""What the text encoder takes for granted; another value in config.json is refused."""


def load_swin(backbone: SwinBackbone, source: str, *, field: str = "spec.model.swin") -> None:
    """Fill the backbone from a file with timm's or Microsoft's names: a path or hf://, either format."""
    path = locate(source, WEIGHT_FILES, field=field)
    state = timm_names(read_state(path, field=field))
    _check_window(backbone, state, path=path, field=field)
    fill(backbone, state, where=str(path), field=field)


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors under today's timm names.

    Microsoft's files merge patches at the end of a stage, timm at the start of the next: i becomes i + 1.
    """
    merges_at_end = "layers.0.downsample.reduction.weight" in state
    names = {
        name: re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
        if merges_at_end
        else name
        for name in state
        if not _SWIN_IGNORED.search(name)
    }
    return {new: state[old] for old, new in names.items()}


def _check_window(backbone: SwinBackbone, state: Mapping[str, Tensor], *, path: Path, field: str) -> None:
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    expected = backbone.state_dict()[name].shape
    if name in state and state[name].shape[0] != expected[0]:
        found, wanted = (window_of(rows) for rows in (state[name].shape[0], expected[0]))
        raise WeightsError(
            f"{path} was trained with window {found}, the model has window {wanted}; tables are not resized",
            field=field,
            remedy=f"Set the window to {found} or choose a file for window {wanted}",
        )


def window_of(rows: int) -> int:
    """Window size w whose bias table has (2w-1)^2 rows."""
    return (math.isqrt(rows) + 1) // 2


def read_text_config(source: str, *, dropout: float, field: str = "spec.model.bert") -> TextConfig:
    """Dimensions in the config.json of a BERT folder."""
    path = locate(source, ("config.json",), field=field)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        dimensions = {ours: int(settings[theirs]) for ours, theirs in _BERT_SETTINGS.items()}
        config = TextConfig(**dimensions, dropout=dropout)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is not the config.json of a BERT model: {error!r}", field=field) from error
    for name, value in _BERT_FIXED.items():
        if settings.get(name, value) != value:
            raise WeightsError(
                f"{path}: {name} is {settings[name]!r}, only {value!r} is supported",
                field=field,
                remedy="Use bert-base-uncased or a model of its kind",
            )
    return config


def load_bert(encoder: BertModel, source: str, *, field: str = "spec.model.bert") -> None:
    """Fill the text encoder from a BERT folder: model.safetensors, or pytorch_model.bin."""
    path = locate(source, WEIGHT_FILES, field=field)
    state = {_bert_name(name): tensor for name, tensor in read_state(path, field=field).items()}
    state = {name: tensor for name, tensor in state.items() if not _BERT_IGNORED.search(name)}
    fill(encoder, state, where=str(path), field=field)


def _bert_name(name: str) -> str:
    """Today's name: old files say gamma and beta; files with pre-training heads put `bert.` in front."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name.removeprefix("bert."))
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
