"""Swin Transformer stages as LAVT runs them: timm's layers, windows padded first and rolled second.

timm rolls the tokens and pads afterwards, LAVT pads and then rolls; the two differ wherever a token grid is
not a multiple of the window. LAVT never shrinks a window larger than the grid. Parameters keep timm's names.

Shapes: B batch, H, W tokens of the grid, C channels, N tokens of a window, G windows of the grid, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn

PATCH = 4
_MASKS_KEPT = 32
_BLOCKED = -100.0
"""Added to the score of two tokens that are neighbours only because of the roll."""


class PadThenRollBlock(SwinTransformerBlock):
    """timm's block with LAVT's window attention; `mask` comes from the stage, once per grid."""

    def __init__(self, dim: int, *, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__(
            dim,
            input_resolution=(window, window),
            num_heads=heads,
            window_size=window,
            shift_size=shift,
            always_partition=True,
            dynamic_mask=True,
            drop_path=drop_path,
        )
        self.window, self.shift = window, shift

    def forward(self, x_BHWC: Tensor, mask_GNN: Tensor | None = None) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C). `mask_GNN` is used by shifted blocks only."""
        x_BHWC = x_BHWC + self.drop_path1(self._window_attention(self.norm1(x_BHWC), mask_GNN))
        out: Tensor = x_BHWC + self.drop_path2(self.mlp(self.norm2(x_BHWC)))
        return out

    def _window_attention(self, x_BHWC: Tensor, mask_GNN: Tensor | None) -> Tensor:
        _, height, width, channels = x_BHWC.shape
        x_BHWC = F.pad(x_BHWC, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded_height, padded_width = x_BHWC.shape[1:3]
        if self.shift:
            x_BHWC = torch.roll(x_BHWC, shifts=(-self.shift, -self.shift), dims=(1, 2))
        size = (self.window, self.window)
        windows = window_partition(x_BHWC, size).view(-1, self.window * self.window, channels)
        windows = self._attend(windows, mask_GNN if self.shift else None)
        x_BHWC = window_reverse(windows.view(-1, *size, channels), size, padded_height, padded_width)
        if self.shift:
            x_BHWC = torch.roll(x_BHWC, shifts=(self.shift, self.shift), dims=(1, 2))
        return x_BHWC[:, :height, :width]

    def _attend(self, windows: Tensor, mask_GNN: Tensor | None) -> Tensor:
        """Multi-head attention inside each window: (B*G, N, C) -> (B*G, N, C)."""
        attn = self.attn
        num_windows, num_tokens, channels = windows.shape
        qkv = attn.qkv(windows).view(num_windows, num_tokens, 3, attn.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self._position_bias()
        if mask_GNN is not None:
            # (1, G*h, N, N) is shared by the images of the batch: B times smaller than timm's expanded mask
            bias = (bias + mask_GNN.unsqueeze(1)).view(1, -1, num_tokens, num_tokens)
            folded = (-1, bias.shape[1], num_tokens, query.shape[-1])
            query, key, value = query.reshape(folded), key.reshape(folded), value.reshape(folded)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        out = out.reshape(num_windows, attn.num_heads, num_tokens, -1).transpose(1, 2)
        mixed: Tensor = attn.proj(out.reshape(num_windows, num_tokens, channels))
        return mixed

    def _position_bias(self) -> Tensor:
        """Relative position bias of every head, (1, h, N, N)."""
        attn = self.attn
        num_tokens = self.window * self.window
        table: Tensor = attn.relative_position_bias_table
        rows = table.index_select(0, attn.get_buffer("relative_position_index").view(-1))
        return rows.view(1, num_tokens, num_tokens, -1).permute(0, 3, 1, 2).contiguous()


class SwinStage(nn.Module):
    """Patch merging (but in the first stage), then blocks with plain and shifted windows in turn."""

    def __init__(self, dim: int, *, heads: int, window: int, drop_path: Sequence[float], merge: bool) -> None:
        super().__init__()
        self.window = window
        self.downsample = PatchMerging(dim // 2, dim) if merge else nn.Identity()
        self.blocks = nn.ModuleList(
            PadThenRollBlock(dim, heads=heads, window=window, shift=(index % 2) * (window // 2), drop_path=rate)
            for index, rate in enumerate(drop_path)
        )
        self._masks: dict[tuple[int, int, torch.device, torch.dtype], Tensor] = {}

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """(B, 2H, 2W, C/2) -> (B, H, W, C), or (B, H, W, C) unchanged in size for the first stage."""
        x_BHWC = self.downsample(x_BHWC)
        mask_GNN = self._mask(x_BHWC) if self.window > 1 and len(self.blocks) > 1 else None
        for block in self.blocks:
            x_BHWC = block(x_BHWC, mask_GNN)
        return x_BHWC

    def _mask(self, x_BHWC: Tensor) -> Tensor:
        """The mask of this grid; kept per size, device and dtype, and never part of the state dict."""
        _, height, width, _ = x_BHWC.shape
        device, dtype = x_BHWC.device, x_BHWC.dtype
        if torch.compiler.is_compiling():
            return shifted_window_mask(height, width, window=self.window, device=device, dtype=dtype)
        key = (height, width, device, dtype)
        if key not in self._masks:
            if len(self._masks) >= _MASKS_KEPT:
                self._masks.clear()
            # a mask first made while predicting must stay usable for training
            with torch.inference_mode(False):
                mask = shifted_window_mask(height, width, window=self.window, device=device, dtype=dtype)
            self._masks[key] = mask
        return self._masks[key]


class SwinBackbone(nn.Module):
    """Patch embedding and the Swin stages; LAVT calls the stages one by one and fuses words after each."""

    def __init__(
        self, *, embed_dim: int, depths: Sequence[int], heads: Sequence[int], window: int, drop_path: float
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(
            img_size=None,
            patch_size=PATCH,
            embed_dim=embed_dim,
            norm_layer=nn.LayerNorm,
            output_fmt="NHWC",
            dynamic_img_pad=True,
        )
        rates = drop_path_rates(depths, drop_path)
        self.layers = nn.ModuleList(
            SwinStage(embed_dim * 2**i, heads=heads[i], window=window, drop_path=rates[i], merge=i > 0)
            for i in range(len(depths))
        )
        self.apply(_init_linear)


def drop_path_rates(depths: Sequence[int], last: float) -> list[list[float]]:
    """Stochastic depth per block: linear from 0 at the network's first block to `last` at its last block."""
    total = sum(depths)
    rates = [last * i / max(total - 1, 1) for i in range(total)]
    ends = [sum(depths[:i]) for i in range(len(depths) + 1)]
    return [rates[start:end] for start, end in pairwise(ends)]


def shifted_window_mask(height: int, width: int, *, window: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Mask (G, N, N) for windows rolled by half their size: 0 within a region, -100 across regions."""
    rows = _regions(height, window, device)
    columns = _regions(width, window, device)
    grid = (rows[:, None] * 3 + columns[None, :])[None, :, :, None]
    regions_GN = window_partition(grid, (window, window)).view(-1, window * window)
    return (regions_GN[:, None, :] != regions_GN[:, :, None]).to(dtype) * _BLOCKED


def _regions(length: int, window: int, device: torch.device) -> Tensor:
    """Region 0, 1 or 2 of each position along one padded axis after the roll."""
    padded = length + -length % window
    position = torch.arange(padded, device=device)
    return (position >= padded - window).long() + (position >= padded - window // 2).long()


def _init_linear(module: nn.Module) -> None:
    """timm's initialisation of Swin: truncated normal with deviation 0.02, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
