"""Sections `model` and `refinement`: what is trained and how its pseudo-labels are corrected."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from semires_trainer.spec.scalars import (
    Flag,
    OpenShare,
    Positive,
    PositiveDecimal,
    Section,
    Share,
    Uri,
    WeightsUri,
    contradiction,
)

Backbone = Literal["SwinTiny", "SwinSmall", "SwinBase", "SwinLarge"]
Heads = Annotated[int, Field(strict=True, ge=1, le=4096)]
Strategy = Literal["CPI-U", "CPI", "CPI-O", "IOM", "None"]

THRESHOLDS: dict[str, tuple[str, ...]] = {
    "CPI-U": ("inter1",),
    "CPI": ("inter1", "inter2"),
    "CPI-O": ("inter2",),
    "IOM": ("iou",),
    "None": (),
}
"""Thresholds that each strategy reads."""


class Dimensions(Section):
    """A Swin of another size, for small machines and tests."""

    embed_dim: Annotated[int, Field(strict=True, ge=8, le=512)]
    """Channels of the first stage; doubles at each of the next three."""
    depths: Annotated[tuple[Positive, ...], Field(min_length=4, max_length=4)]
    """Blocks of the four stages."""
    heads: Annotated[tuple[Heads, ...], Field(min_length=4, max_length=4)]
    """Attention heads of the four stages; each divides the stage's channels."""
    window: Annotated[int, Field(strict=True, ge=2, le=32)]
    """Side of the attention window, in tokens of 4 x 4 pixels."""

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> Dimensions:
        for stage, heads in enumerate(self.heads):
            channels = self.embed_dim * 2**stage
            if channels % heads:
                raise contradiction(
                    f"heads[{stage}]",
                    f"{channels} channels of stage {stage + 1} cannot be divided among {heads} heads",
                    "choose a divisor of embedDim * 2^stage",
                )
        return self


class TextDimensions(Section):
    """Sizes of a BERT with random weights. The defaults are those of bert-base."""

    hidden_size: Annotated[int, Field(strict=True, ge=8, le=4096)] = 768
    """Width; a multiple of heads."""
    layers: Annotated[int, Field(strict=True, ge=1, le=48)] = 12
    """Transformer layers."""
    heads: Annotated[int, Field(strict=True, ge=1, le=64)] = 12
    """Attention heads."""
    intermediate_size: Annotated[int, Field(strict=True, ge=8, le=16384)] = 3072
    """Width of the feed-forward part."""
    max_positions: Annotated[int, Field(strict=True, ge=4, le=4096)] = 512
    """Longest sentence in tokens; at least model.maxTokens."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> TextDimensions:
        if self.hidden_size % self.heads:
            raise contradiction(
                "heads",
                f"hiddenSize {self.hidden_size} cannot be divided among {self.heads} heads",
                "choose a divisor",
            )
        return self


class Model(Section):
    """LAVT: a Swin that looks at the sentence in each stage, and a BERT that reads it."""

    backbone: Backbone | None = None
    """A published Swin. Default when dimensions are left out too: SwinBase (window 12), the paper's."""
    dimensions: Dimensions | None = None
    """A Swin of another size, instead of backbone; needs `swin` (usually random) or initFrom."""
    image_size: Annotated[int, Field(strict=True, ge=64, le=1024, multiple_of=32)] = 480
    """Side S in pixels to which pictures are resized for training and evaluation; a multiple of 32 in [64,
    1024]."""
    max_tokens: Annotated[int, Field(strict=True, ge=4, le=512)] = 20
    """Sentences are cut to this many tokens, [CLS] and [SEP] included."""
    swin: WeightsUri | None = None
    """Starting weights of the backbone (timm or Microsoft names), a folder, file or hf:// repository, or
    `random`.
    Default: the public file of the chosen backbone, for SwinBase
    hf://timm/swin_base_patch4_window12_384.ms_in22k."""
    bert: WeightsUri = "hf://google-bert/bert-base-uncased"
    """Folder or hf:// repository of the text encoder, or `random`."""
    vocab: WeightsUri | None = None
    """Vocabulary file of the tokenizer. Default: vocab.txt inside bert; needed when bert is random."""
    text_dimensions: TextDimensions | None = None
    """Sizes of the text encoder when bert is random."""
    init_from: Uri | None = None
    """A LAVT or SemiRES checkpoint converted by `semires convert`, or a model folder of another run: skips
    burn-in."""
    drop_path: OpenShare = "0.3"
    """Stochastic depth of the last block; grows linearly from 0 at the first."""
    text_dropout: OpenShare = "0.1"
    """Dropout of the text encoder, on in mutual learning only."""

    @model_validator(mode="after")
    def _one_backbone(self) -> Model:
        if self.backbone and self.dimensions:
            raise contradiction("dimensions", "backbone and dimensions exclude each other", "remove one of them")
        if self.dimensions and not self.swin and not self.init_from:
            raise contradiction(
                "swin",
                "is missing: there are no public weights for these dimensions",
                "add swin: random, or a file",
            )
        return self

    @model_validator(mode="after")
    def _text_encoder(self) -> Model:
        if self.text_dimensions and self.bert != "random":
            raise contradiction(
                "textDimensions", "only a random bert has free dimensions", "remove it, or set bert: random"
            )
        if self.bert == "random" and self.vocab is None:
            raise contradiction("vocab", "is missing: a random bert brings no vocabulary", "add vocab: PATH/vocab.txt")
        if self.text_dimensions and self.text_dimensions.max_positions < self.max_tokens:
            raise contradiction(
                "textDimensions.maxPositions",
                f"{self.text_dimensions.max_positions} is less than maxTokens {self.max_tokens}",
                "raise maxPositions or lower maxTokens",
            )
        return self


class Pwa(Section):
    """Pixel-wise weighted adjustment of pseudo-labels that no proposal matched (Eq. 10)."""

    enabled: Flag | None = None
    """Off gives each pixel of an unmatched pseudo-label weight 1."""
    gamma: PositiveDecimal | None = None
    """Height from which the Gaussian is subtracted."""
    mu: Share | None = None
    """Probability of least weight."""
    sigma2: PositiveDecimal | None = None
    """Variance of the Gaussian."""


class Refinement(Section):
    """How a pseudo-label is corrected with proposals. Only the thresholds the strategy reads may be given."""

    strategy: Strategy | None = None
    """IOM takes the best-matching proposal; CPI unites proposals by either inclusion score, CPI-U by the
    first,
    CPI-O by the second; None trains on the teacher's masks as they are."""
    iou: Share | None = None
    """IOM: the best proposal counts if its IoU with the pseudo-label is greater (Eq. 6)."""
    inter1: Share | None = None
    """CPI, CPI-U: a proposal counts if it covers a greater share of the pseudo-label (Eq. 7)."""
    inter2: Share | None = None
    """CPI, CPI-O: a proposal counts if a greater share of it lies inside the pseudo-label (Eq. 8)."""
    pwa: Pwa = Pwa()
    """Weights for pseudo-labels that no proposal matched."""

    def unused_threshold(self, strategy: str) -> str | None:
        """A threshold that was given but is not read by `strategy`; None if there is none."""
        given = (name for name in ("iou", "inter1", "inter2") if getattr(self, name) is not None)
        return next((name for name in given if name not in THRESHOLDS[strategy]), None)
