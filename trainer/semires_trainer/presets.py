"""Every hyper-parameter per preset with its source: the one place where these numbers stand.

Paths are those of the manifest below `spec`. Values are written as in the manifest (decimals are strings).
docs/hyperparameters.md is generated from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PresetName = Literal["Paper", "OfficialCPI", "OfficialIOM"]
Value = str | int | bool | tuple[str, ...]
PRESET_NAMES: tuple[PresetName, ...] = ("Paper", "OfficialCPI", "OfficialIOM")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameter:
    """One row of the table."""

    path: str
    paper: Value
    official_cpi: Value
    official_iom: Value
    source: str

    def value(self, preset: PresetName) -> Value:
        """The value of this hyper-parameter in `preset`."""
        by_name = {"Paper": self.paper, "OfficialCPI": self.official_cpi, "OfficialIOM": self.official_iom}
        return by_name[preset]


def _same(path: str, value: Value, source: str) -> Hyperparameter:
    return Hyperparameter(path=path, paper=value, official_cpi=value, official_iom=value, source=source)


def _row(path: str, paper: Value, official_cpi: Value, official_iom: Value, source: str) -> Hyperparameter:
    return Hyperparameter(path=path, paper=paper, official_cpi=official_cpi, official_iom=official_iom, source=source)


HYPERPARAMETERS: tuple[Hyperparameter, ...] = (
    _row("refinement.strategy", "CPI-U", "CPI", "IOM", "Paper: Table 2, best; official code: one script each"),
    _same("refinement.iou", "0.5", "Paper Eq. 6, Table 3; official code (greater, not equal). Read by IOM"),
    _same("refinement.inter1", "0.7", "Paper Eq. 7, Table 3; official code. Read by CPI-U and CPI"),
    _same("refinement.inter2", "0.7", "Paper Eq. 8, Table 3; official code. Read by CPI-O and CPI"),
    _same("refinement.pwa.enabled", True, "Paper Eq. 10, Table 5"),
    _same("refinement.pwa.gamma", "1.3", "Paper (PWA); official code"),
    _same("refinement.pwa.mu", "0.5", "Paper (PWA); official code"),
    _same("refinement.pwa.sigma2", "0.1", "Paper (PWA); official code"),
    _same("training.burnInEpochs", 40, "Official code (LAVT's); not in the paper"),
    _same("training.burnInEvaluateEvery", 1, "Official code: after each epoch"),
    _same("training.epochs", 40, "Official code; not in the paper"),
    _same("training.batch.labeled", 12, "Paper: 3 a GPU on 4 GPUs; official code"),
    _same("training.batch.unlabeled", 12, "Paper: 3 a GPU on 4 GPUs; official code"),
    _same("training.burnInBatch", 8, "Official README: 2 a GPU on 4 GPUs"),
    _same("training.learningRate", "5e-5", "LAVT; official code"),
    _same("training.weightDecay", "0.01", "LAVT; official code"),
    _same("training.polyPower", "0.9", "LAVT; official code"),
    _row(
        "training.lrHorizon",
        "True",
        "Doubled",
        "Doubled",
        "Paper: ours, decays to 0; official code counts twice the steps and ends at 0.536 of the rate",
    ),
    _row(
        "training.emaDecay",
        "0.996",
        "0.9996",
        "0.9996",
        "Paper; the official code passes 0.9996 and ignores its option",
    ),
    _row(
        "training.supervisedWeight",
        "1",
        "1",
        "10",
        "Paper: no value given, ours as CPI script; official IOM script multiplies by 10",
    ),
    _same("training.unsupervisedWeight", "1", "Official code; no value in the paper"),
    _row(
        "training.mixture",
        "PerImage",
        "PerRank",
        "PerRank",
        "Paper Eq. 10: per image; official code halves the sum of two batch means if both kinds occur",
    ),
    _row(
        "training.strongNormalization",
        "Once",
        "Twice",
        "Twice",
        "Ours; official code jitters the normalised view and normalises again",
    ),
    _row(
        "training.modelSelection",
        "AllExpressions",
        "OneExpression",
        "AllExpressions",
        "Ours; official code per script",
    ),
    _same("training.classWeights", ("0.9", "1.1"), "LAVT; official code. The paper writes plain BCE"),
    _same("training.blurProbability", "0.5", "Official code (radius 1); the paper names the transform only"),
    _same("training.jitter.probability", "0.5", "Official code; the paper names the transform only"),
    _same("training.jitter.brightness", "0.25", "Official code: factor 0.75 to 1.25"),
    _same("training.jitter.contrast", "0.25", "Official code: factor 0.75 to 1.25"),
    _same("training.jitter.saturation", "0.25", "Official code: factor 0.75 to 1.25"),
    _same("training.jitter.hue", "0.25", "Official code: shift of at most 0.25"),
    _same("training.optimizedTextLayers", 10, "LAVT: encoder layers 0 to 9 of 12; official code"),
    _same("training.burnInAugmentation", "None", "Official code: no augmentation of labelled images"),
    _row(
        "training.patience",
        5,
        5,
        0,
        "Official CPI script: 5; the IOM script resets its counter and never stops early",
    ),
)

BY_PATH: dict[str, Hyperparameter] = {row.path: row for row in HYPERPARAMETERS}

FIXED_SOURCES: dict[str, str] = {
    "dataset.labeled.percent": "Paper Table 1: 0.5, 1, 2, 5; Table 6: 10 to 50",
    "dataset.labeled.seed": "Official split script: random.seed(0)",
    "model.backbone": "LAVT: Swin-B, window 12, ImageNet-22k",
    "model.imageSize": "LAVT; official code",
    "model.maxTokens": "LAVT",
    "model.dropPath": "LAVT",
    "model.textDropout": "BERT; official code: off in burn-in, on in mutual learning",
    "model.bert": "LAVT: bert-base-uncased",
    "proposals.sam.model": "Paper: ViT-H; official code",
    "proposals.sam.pointsPerSide": "Default of segment-anything, used by the official code",
    "proposals.sam.predIouThreshold": "Default of segment-anything, used by the official code",
    "proposals.sam.stabilityScoreThreshold": "Default of segment-anything, used by the official code",
    "proposals.sam.stabilityScoreOffset": "Default of segment-anything, used by the official code",
    "proposals.sam.boxNmsThreshold": "Default of segment-anything, used by the official code",
    "proposals.sam.cropLayers": "Default of segment-anything, used by the official code",
    "proposals.sam.minMaskRegionArea": "Default of segment-anything, used by the official code",
    "proposals.felzenszwalb.scales": "Ours",
    "proposals.felzenszwalb.sigma": "Default of scikit-image",
    "proposals.felzenszwalb.minSize": "Default of scikit-image",
    "proposals.felzenszwalb.nmsIou": "Ours",
    "training.trainEmbeddings": "LAVT: embeddings are not in the optimizer; official code",
}
"""Hyper-parameters that are the same in every preset and have their default in the schema, with their
source."""
