"""LAVT's fusion of words into visual tokens (its "PWAM") and the gates that feed it back into the backbone.

Shapes: B batch, S visual tokens (H*W), T words, C visual channels, L language width, h heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_NORM_EPS = 1e-5


class WordFusion(nn.Module):
    """Multiply each visual token with a summary of the words chosen by attention.

    The published network writes the projections as 1x1 convolutions over (B, C, S); here they are linear
    layers over (B, S, C), which saves the transposes. Instance norm over the tokens needs S > 1.
    """

    def __init__(self, channels: int, *, text_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.vision = nn.Linear(channels, channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(text_width, channels)
        self.value = nn.Linear(text_width, channels)
        self.output = nn.Linear(channels, channels)
        self.fused = nn.Linear(channels, channels)

    def forward(self, x_BSC: Tensor, text_BTL: Tensor, word_mask_BT: Tensor) -> Tensor:
        """Fused residual (B, S, C) from tokens (B, S, C), words (B, T, L) and their 1/0 mask (B, T)."""
        vision = nn.functional.gelu(self.vision(x_BSC))
        language = self._attend(x_BSC, text_BTL, word_mask_BT)
        return nn.functional.gelu(self.fused(vision * language))

    def _attend(self, x_BSC: Tensor, text_BTL: Tensor, word_mask_BT: Tensor) -> Tensor:
        (batch, tokens, channels), heads = x_BSC.shape, self.heads
        present = word_mask_BT.to(text_BTL.dtype).unsqueeze(-1)
        query = instance_norm(self.query(x_BSC)).view(batch, tokens, heads, -1)
        key = (self.key(text_BTL) * present).view(batch, -1, heads, channels // heads)
        value = (self.value(text_BTL) * present).view(batch, -1, heads, channels // heads)
        # the scale is that of all channels, whatever the number of heads
        scores = torch.einsum("bshd,bthd->bsht", query * channels**-0.5, key)
        weights = (scores + (1e4 * present - 1e4).view(batch, 1, 1, -1)).softmax(dim=-1)
        # `output` is linear, so it is applied to the T words instead of the S >> T tokens
        projection = self.output.weight.view(channels, heads, -1)
        words = torch.einsum("bthd,chd->bhtc", value, projection).flatten(1, 2)
        out = weights.reshape(batch, tokens, -1).to(words.dtype) @ words + self.output.bias
        return instance_norm(out)


def instance_norm(x_BSC: Tensor) -> Tensor:
    """Normalise each channel of each sample over its S tokens; statistics in float32 at least."""
    wide = x_BSC.float() if x_BSC.dtype in (torch.bfloat16, torch.float16) else x_BSC
    variance, mean = torch.var_mean(wide, dim=1, correction=0, keepdim=True)
    return ((wide - mean) * torch.rsqrt(variance + _NORM_EPS)).to(x_BSC.dtype)


class LanguageGate(nn.Module):
    """How much of the fused residual each channel lets back into the visual stream: x + gate(r) * r."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels, channels, bias=False)
        self.outer = nn.Linear(channels, channels, bias=False)
        nn.init.trunc_normal_(self.outer.weight, std=0.02)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Same shape as `x` and `residual`, (..., C)."""
        return x + torch.tanh(self.outer(nn.functional.relu(self.inner(residual)))) * residual
