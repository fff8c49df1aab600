"""LAVT's decoder: the four stage outputs are merged from the coarsest to the finest into two logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu


def resize(x_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resizing with aligned corners, as everywhere in LAVT."""
    return interpolate(x_BCHW, size=list(size), mode="bilinear", align_corners=True)


class MergeBlock(nn.Module):
    """Upsample the coarse map, put the finer one behind it, and apply two 3x3 convolutions."""

    def __init__(self, coarse: int, fine: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(coarse + fine, hidden, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)

    def forward(self, coarse_BCHW: Tensor, fine_BCHW: Tensor) -> Tensor:
        """(B, hidden, H, W) at the size of the finer map."""
        x = torch.cat([resize(coarse_BCHW, fine_BCHW.shape[-2:]), fine_BCHW], dim=1)
        x = relu(self.norm1(self.conv1(x)))
        return relu(self.norm2(self.conv2(x)))


class Decoder(nn.Module):
    """Three merges and a 1x1 convolution to (background, foreground)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        hidden = 4 * embed_dim
        coarse = (8 * embed_dim, hidden, hidden)
        fine = (4 * embed_dim, 2 * embed_dim, embed_dim)
        self.merges = nn.ModuleList(MergeBlock(c, f, hidden) for c, f in zip(coarse, fine, strict=True))
        self.head = nn.Conv2d(hidden, 2, 1)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits (B, 2, H/4, W/4) from the four stage outputs, finest first."""
        *finer, x = stages
        for merge, fine in zip(self.merges, reversed(finer), strict=True):
            x = merge(x, fine)
        logits: Tensor = self.head(x)
        return logits
