"""What a job reads in these tests: a small data set, a SAM of the real format, and the manifest that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from semires_trainer.data.synthetic import SyntheticConfig, write_synthetic

Document = dict[str, Any]

IMAGES, EVALUATION_IMAGES, SIDE = 40, 4, 64
SECRET = "s3-credentials"
ENDED = ("Succeeded", "Failed")
"""Phases of jobs and of pods."""
SAM_FILE = "sam_tiny.pth"
POINTS_PER_SIDE = 3


def write_inputs(bucket: Path) -> None:
    """Fill a bucket: refer/, images/, vocab.txt and models/."""
    data = bucket.parent / f".{bucket.name}"
    write_synthetic(data, SyntheticConfig(images=IMAGES, evaluation_images=EVALUATION_IMAGES, size=SIDE))
    (bucket / "refer" / "refcoco").mkdir(parents=True)
    for name in ("refs(unc).p", "instances.json"):
        (data / name).rename(bucket / "refer" / "refcoco" / name)
    for name in ("images", "vocab.txt"):
        (data / name).rename(bucket / name)
    (bucket / "models").mkdir()
    write_sam(bucket / "models" / SAM_FILE)


def write_sam(path: Path) -> None:
    """A SAM of 64 x 64 pixels with seeded random weights, in the format of the public files."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _small_sam()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "rel_pos" in name or "pos_embed" in name:
                    parameter.normal_(std=0.5)
    torch.save(model.state_dict(), path)


def _small_sam() -> Sam:
    encoder = ImageEncoderViT(
        depth=3,
        embed_dim=16,
        img_size=SIDE,
        mlp_ratio=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=2,
        patch_size=16,
        use_rel_pos=True,
        global_attn_indexes=(1,),
        window_size=2,
        out_chans=32,
    )
    prompts = PromptEncoder(embed_dim=32, image_embedding_size=(4, 4), input_image_size=(SIDE, SIDE), mask_in_chans=8)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=48, num_heads=8)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_depth=3, iou_head_hidden_dim=24)
    return Sam(encoder, prompts, decoder)


def manifest(name: str, bucket: str, sam_sha256: str, spec: Mapping[str, Any]) -> Document:
    """A job on four pretend GPUs whose ranks compute on the CPU; sections of `spec` are laid over those here."""
    base = _spec(name, bucket, sam_sha256)
    for section, given in spec.items():
        is_part = isinstance(given, dict) and isinstance(base.get(section), dict)
        base[section] = {**base[section], **given} if is_part else given
    return {"apiVersion": "semires.dev/v1alpha1", "kind": "SemiRESJob", "metadata": {"name": name}, "spec": base}


def _spec(name: str, bucket: str, sam_sha256: str) -> Document:
    # Weights are random: no mask of theirs would pass the usual thresholds.
    lowered = {"predIouThreshold": "0", "stabilityScoreThreshold": "0", "boxNmsThreshold": "1"}
    weights = {"model": "Custom", "weights": f"s3://{bucket}/models/{SAM_FILE}", "sha256": sam_sha256}
    return {
        "dataset": {
            "name": "RefCOCO",
            "annotations": f"s3://{bucket}/refer",
            "images": f"s3://{bucket}/images",
            "labeled": {"percent": "50"},
            "evaluate": ["val", "testA"],
        },
        "proposals": {"sam": {**weights, **lowered, "pointsPerSide": POINTS_PER_SIDE}},
        "model": {
            "dimensions": {"embedDim": 8, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 4},
            **{"imageSize": SIDE, "maxTokens": 16, "swin": "random", "bert": "random"},
            "vocab": f"s3://{bucket}/vocab.txt",
            "textDimensions": {
                **{"hiddenSize": 32, "layers": 1, "heads": 2, "intermediateSize": 64, "maxPositions": 32}
            },
        },
        "training": {
            **{"burnInEpochs": 2, "burnInEvaluateEvery": 2, "burnInBatch": 8, "epochs": 8},
            **{"batch": {"labeled": 4, "unlabeled": 4}, "learningRate": "0.001", "emaDecay": "0.9"},
            **{"optimizedTextLayers": 1, "trainEmbeddings": True, "workers": 0, "logIntervalSteps": 5},
            **{"device": "CPU", "deterministic": True, "checkpoint": {"intervalSteps": 10}},
        },
        "output": f"s3://{bucket}/results/{name}",
        "storage": {"credentialsSecret": SECRET},
        "resources": {
            **{"gpusPerNode": 4, "cpu": "1400m", "memory": "5Gi"},
            **{"shm": "256Mi", "ephemeralStorage": "2Gi"},
        },
        "preflight": {"cpu": "250m", "memory": "1Gi"},
        "pod": {"annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9464"}},
    }


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
