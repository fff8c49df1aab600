"""A model section in the form of the resolved manifest, small enough for seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from semires_trainer.models.lavt import LAVT, LAVTConfig
from semires_trainer.models.text import TextConfig


@dataclass(frozen=True, kw_only=True)
class TextSizes:
    hidden_size: int = 24
    layers: int = 2
    heads: int = 2
    intermediate_size: int = 32
    max_positions: int = 16


@dataclass(frozen=True, kw_only=True)
class Section:
    embed_dim: int = 8
    depths: tuple[int, ...] = (1, 1, 2, 1)
    heads: tuple[int, ...] = (1, 2, 2, 4)
    window: int = 4
    image_size: int = 64
    max_tokens: int = 8
    drop_path: float = 0.0
    swin: str = "random"
    bert: str = "random"
    vocab: str | None = None
    text_dimensions: TextSizes | None = field(default_factory=TextSizes)
    init_from: str | None = None


@pytest.fixture
def section() -> type[Section]:
    return Section


@pytest.fixture
def tiny_config() -> LAVTConfig:
    text = TextConfig(
        vocab_size=60, hidden_size=24, layers=2, heads=2, intermediate_size=32, max_positions=16, dropout=0.0
    )
    return LAVTConfig(
        embed_dim=8, depths=(2, 1, 2, 1), heads=(1, 2, 2, 4), window=4, image_size=64, drop_path=0.0, text=text
    )


@pytest.fixture
def tiny(tiny_config: LAVTConfig) -> LAVT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LAVT(tiny_config)


@pytest.fixture
def batch() -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Image, token ids and mask of two samples, the second shorter than the first."""

    def make(height: int = 64, width: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        image = torch.randn(2, 3, height, width, generator=generator)
        input_ids = torch.randint(1, 60, (2, 8), generator=generator)
        mask = torch.tensor([[1] * 8, [1] * 3 + [0] * 5])
        return image, input_ids * mask, mask

    return make
