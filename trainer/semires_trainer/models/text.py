"""The text encoder: transformers' BERT without its pooler.

Shapes: B batch, T tokens, L language width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers import BertConfig, BertModel


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """Dimensions of BERT; the defaults are those of bert-base-uncased."""

    vocab_size: int = 30522
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    token_types: int = 2
    dropout: float = 0.1
    """Of hidden states and attention weights; active in training mode only."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")


def build_text_encoder(config: TextConfig) -> BertModel:
    """BERT with random weights (normal, deviation 0.02)."""
    settings = BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_positions,
        type_vocab_size=config.token_types,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
    )
    settings._attn_implementation = "sdpa"
    return BertModel(settings, add_pooling_layer=False)


def encode_text(encoder: BertModel, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
    """Last hidden state (B, T, L). Padded words are not attended to; their own features are meaningless."""
    batch, tokens = input_ids_BT.shape
    # for a mask (B, T), transformers would ask on the host whether it is all ones; this one it takes as it is
    mask = attention_mask_BT.bool()[:, None, None, :].expand(batch, 1, tokens, tokens)
    features: Tensor = encoder(input_ids=input_ids_BT, attention_mask=mask).last_hidden_state
    return features
