"""The resolved configuration: what the trainer reads. Presets applied, defaults filled in, every number an
int or a float."""

from __future__ import annotations

from dataclasses import dataclass

from semires_trainer.spec.data import DatasetName, Generator
from semires_trainer.spec.model import Strategy
from semires_trainer.spec.training import (
    BurnInAugmentation,
    Device,
    LrHorizon,
    Mixture,
    ModelSelection,
    NanPolicy,
    Precision,
    PresetName,
    StrongNormalization,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedDataset:
    """`spec.dataset`; exactly one of the three `labeled_*` forms is set."""

    name: DatasetName
    annotations: str
    images: str
    labeled_percent: str | None
    labeled_seed: int
    labeled_image_ids: tuple[int, ...] | None
    labeled_image_ids_file: str | None
    unlabeled_limit: int | None
    bad_image_limit: int
    evaluate: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedSam:
    """`spec.proposals.sam`."""

    model: str
    weights: str
    sha256: str | None
    points_per_side: int
    points_per_batch: int
    pred_iou_threshold: float
    stability_score_threshold: float
    stability_score_offset: float
    box_nms_threshold: float
    crop_layers: int
    min_mask_region_area: int
    mode: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedFelzenszwalb:
    """`spec.proposals.felzenszwalb`."""

    scales: tuple[int, ...]
    sigma: float
    min_size: int
    nms_iou: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedPrecomputed:
    """`spec.proposals.precomputed`."""

    path: str
    keyed_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedProposals:
    """`spec.proposals`; exactly the section of the generator is set."""

    generator: Generator
    sam: ResolvedSam | None
    felzenszwalb: ResolvedFelzenszwalb | None
    precomputed: ResolvedPrecomputed | None
    store: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedTextDimensions:
    """`spec.model.textDimensions`."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    max_positions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedModel:
    """`spec.model`. `backbone` is None for free dimensions; `text_dimensions` is set if and only if bert is
    random;
    `vocab` None means vocab.txt inside `bert`."""

    backbone: str | None
    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    image_size: int
    max_tokens: int
    swin: str
    bert: str
    vocab: str | None
    text_dimensions: ResolvedTextDimensions | None
    init_from: str | None
    drop_path: float
    text_dropout: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedPwa:
    """`spec.refinement.pwa`."""

    enabled: bool
    gamma: float
    mu: float
    sigma2: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedRefinement:
    """`spec.refinement`. Thresholds that the strategy does not read hold the preset's values."""

    strategy: Strategy
    iou: float
    inter1: float
    inter2: float
    pwa: ResolvedPwa


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedTraining:
    """`spec.training`. Exactly one of `checkpoint_interval_steps` and `checkpoint_interval_epochs` is set."""

    preset: PresetName
    burn_in_epochs: int
    burn_in_evaluate_every: int
    epochs: int
    batch_labeled: int
    batch_unlabeled: int
    burn_in_batch: int
    micro_batch: int | None
    learning_rate: float
    weight_decay: float
    poly_power: float
    lr_horizon: LrHorizon
    ema_decay: float
    supervised_weight: float
    unsupervised_weight: float
    mixture: Mixture
    strong_normalization: StrongNormalization
    model_selection: ModelSelection
    class_weights: tuple[float, float]
    blur_probability: float
    jitter_probability: float
    jitter_brightness: float
    jitter_contrast: float
    jitter_saturation: float
    jitter_hue: float
    burn_in_augmentation: BurnInAugmentation
    patience: int
    optimized_text_layers: int
    train_embeddings: bool
    device: Device
    precision: Precision
    compile: bool
    channels_last: bool
    seed: int
    deterministic: bool
    workers: int | None
    checkpoint_interval_steps: int | None
    checkpoint_interval_epochs: int | None
    keep_last: int
    keep_every: int | None
    nan_policy: NanPolicy
    nan_limit: int
    log_interval_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """A job as the trainer reads it."""

    name: str
    dataset: ResolvedDataset
    proposals: ResolvedProposals
    model: ResolvedModel
    refinement: ResolvedRefinement
    training: ResolvedTraining
    output: str
