"""Section `training`: presets and everything that may deviate from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from semires_trainer.spec.scalars import (
    DecimalText,
    Flag,
    Natural,
    NonNegative,
    OpenShare,
    Positive,
    PositiveDecimal,
    Section,
    Share,
    contradiction,
)

PresetName = Literal["Paper", "OfficialCPI", "OfficialIOM"]
Mixture = Literal["PerImage", "PerRank"]
LrHorizon = Literal["True", "Doubled"]
StrongNormalization = Literal["Once", "Twice"]
ModelSelection = Literal["AllExpressions", "OneExpression"]
BurnInAugmentation = Literal["None", "Strong"]
Device = Literal["Auto", "CUDA", "CPU"]
Precision = Literal["Auto", "BF16", "FP32"]
NanPolicy = Literal["Stop", "Skip", "RollBack"]
HueShare = Annotated[str, DecimalText(ge="0", le="0.5")]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]


class Batch(Section):
    """Images per optimizer step over all processes; the share of each process and accumulation are
    derived."""

    labeled: Positive | None = None
    """Labelled images per step."""
    unlabeled: Positive | None = None
    """Unlabelled images per step."""


class Jitter(Section):
    """Colour jitter of the strong view."""

    probability: Share | None = None
    """Probability that a picture is jittered."""
    brightness: Share | None = None
    """Brightness is multiplied by a factor in 1 ± this."""
    contrast: Share | None = None
    """Contrast is multiplied by a factor in 1 ± this."""
    saturation: Share | None = None
    """Saturation is multiplied by a factor in 1 ± this."""
    hue: HueShare | None = None
    """Hue is turned by up to this share of the colour circle, either way."""


class Checkpointing(Section):
    """When the state is saved and which states are kept. The best model is kept besides."""

    interval_steps: Positive | None = None
    """Save each N optimizer steps, instead of intervalEpochs."""
    interval_epochs: Positive | None = None
    """Save at the end of each N-th epoch. Default when intervalSteps is left out too: 1."""
    keep_last: Positive = 2
    """Number of newest checkpoints that are kept."""
    keep_every: Positive | None = None
    """Also keep, for good, checkpoints at the end of each N-th epoch; left out keeps none."""

    @model_validator(mode="after")
    def _one_interval(self) -> Checkpointing:
        if self.interval_steps and self.interval_epochs:
            raise contradiction(
                "intervalSteps", "intervalSteps and intervalEpochs exclude each other", "remove one of them"
            )
        return self


class Training(Section):
    """Hyper-parameters and the conditions of a run. What is left out comes from the preset."""

    preset: PresetName = "Paper"
    """Paper: as published, known bugs of the official code fixed. OfficialCPI and OfficialIOM: as the
    released scripts behave."""
    burn_in_epochs: Natural | None = None
    """Epochs of supervised training on the labelled images; 0 skips it."""
    burn_in_evaluate_every: Positive | None = None
    """Epochs of burn-in between evaluations on the selection split; the last epoch is always evaluated. An epoch of
    a few labelled images takes less time than their evaluation."""
    epochs: Natural | None = None
    """Epochs of mutual learning; one epoch sees each unlabelled object once. 0 trains supervised only."""
    batch: Batch = Batch()
    """Images per optimizer step in mutual learning."""
    burn_in_batch: Positive | None = None
    """Labelled images per optimizer step in burn-in."""
    micro_batch: Positive | None = None
    """Upper limit of images, labelled and unlabelled together, per process and forward pass; the rest is
    accumulated. Left out: no limit."""
    learning_rate: PositiveDecimal | None = None
    """AdamW's learning rate at the first step."""
    weight_decay: NonNegative | None = None
    """AdamW's weight decay, for all but norms and position tables of the backbone."""
    poly_power: NonNegative | None = None
    """Power of the polynomial decay of the learning rate."""
    lr_horizon: LrHorizon | None = None
    """True decays to 0 at the last step; Doubled over twice the steps, as the official code does. In quotes:
    "True"."""
    ema_decay: OpenShare | None = None
    """teacher = decay * teacher + (1 - decay) * student after each step."""
    supervised_weight: NonNegative | None = None
    """Factor of the supervised loss in mutual learning."""
    unsupervised_weight: NonNegative | None = None
    """Factor of the unsupervised loss."""
    mixture: Mixture | None = None
    """PerImage: each unlabelled image weighs the same. PerRank: as the official code, matched and unmatched
    images of a
    process are averaged apart and halved when both are present."""
    strong_normalization: StrongNormalization | None = None
    """Once: jitter on RGB, then normalise. Twice: jitter on the normalised weak view, normalise again
    (official code)."""
    model_selection: ModelSelection | None = None
    """Expressions by which the best epoch is chosen: all, or one random expression per object (official
    code)."""
    class_weights: Annotated[tuple[PositiveDecimal, ...], Field(min_length=2, max_length=2)] | None = None
    """Cross-entropy weights of background and foreground."""
    blur_probability: Share | None = None
    """Probability that the weak view of an unlabelled image is blurred (Gaussian, radius 1 pixel)."""
    jitter: Jitter = Jitter()
    """Colour jitter of the strong view."""
    burn_in_augmentation: BurnInAugmentation | None = None
    """Augmentation of labelled images in burn-in: None, or Strong (the blur and jitter of the strong
    view)."""
    patience: Natural | None = None
    """Stop after this many epochs without a better validation oIoU; 0 never stops early."""
    optimized_text_layers: Annotated[int, Field(strict=True, ge=0, le=48)] | None = None
    """BERT layers that are trained, counted from the first; at most all of them."""
    train_embeddings: Flag = False
    """Train BERT's embeddings too; sensible when bert is random."""
    device: Device = "Auto"
    """CUDA fails when there is no GPU; Auto falls back to the CPU unless the environment asks for GPUs, as the
    operator's does."""
    precision: Precision = "Auto"
    """BF16 autocast or FP32; Auto is BF16 on GPUs that support it."""
    compile: Flag = False
    """Use torch.compile."""
    channels_last: Flag = False
    """Keep images in channels-last memory format."""
    seed: Seed = 0
    """Seed of initialisation, order, expressions and augmentation."""
    deterministic: Flag = False
    """Bitwise reproducible at the price of speed."""
    workers: Annotated[int, Field(strict=True, ge=0, le=256)] | None = None
    """Loader processes per training process. Default: by the number of CPUs; 0 loads in the training
    process."""
    checkpoint: Checkpointing = Checkpointing()
    """When the state is saved and what is kept."""
    nan_policy: NanPolicy = "Stop"
    """On a loss that is not finite: Stop (exit code 4), Skip the step, or RollBack to the last checkpoint."""
    nan_limit: Positive = 10
    """Skips or roll-backs after which the run stops anyway."""
    log_interval_steps: Positive = 10
    """Write metrics every N optimizer steps."""
