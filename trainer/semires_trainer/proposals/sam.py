"""Proposals by Segment Anything: the package's automatic mask generator, as the paper used it."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from semires_trainer.errors import ConfigError, WeightsError
from semires_trainer.proposals.masks import Proposal, Rle
from semires_trainer.proposals.sam_key import expected_sha256, sam_parameters
from semires_trainer.proposals.sam_weights import (
    SamArchitecture,
    StateDict,
    architecture_of,
    check_file,
    load_state,
    public_architecture,
)
from semires_trainer.spec.resolved import ResolvedSam

_PIXEL_MEAN = (123.675, 116.28, 103.53)
_PIXEL_STD = (58.395, 57.12, 57.375)
_NAMES_SHOWN = 10


class SamProposer:
    """Prompts a SAM with a grid of points and keeps the stable masks. Runs in this process, in fp32."""

    name = "SAM"

    def __init__(self, model: Sam, section: ResolvedSam, *, device: str = "cpu") -> None:
        """Use a model that is loaded already; its checksum is the one that `section` expects."""
        if section.min_mask_region_area and importlib.util.find_spec("cv2") is None:
            raise ConfigError(
                "removing small regions needs OpenCV, which is not installed",
                field="spec.proposals.sam.minMaskRegionArea",
                remedy="Set it to 0, or install opencv-python-headless.",
            )
        self.weights_sha256 = expected_sha256(section)
        self._parameters = sam_parameters(section)
        self._generator = SamAutomaticMaskGenerator(
            model.to(device).eval(),
            points_per_side=section.points_per_side,
            points_per_batch=section.points_per_batch,
            pred_iou_thresh=section.pred_iou_threshold,
            stability_score_thresh=section.stability_score_threshold,
            stability_score_offset=section.stability_score_offset,
            box_nms_thresh=section.box_nms_threshold,
            crop_n_layers=section.crop_layers,
            min_mask_region_area=section.min_mask_region_area,
            output_mode="coco_rle",
        )

    @classmethod
    def load(cls, section: ResolvedSam, *, device: str = "cpu") -> SamProposer:
        """Check the weights file (kind, sha256, architecture), then load it; WeightsError otherwise."""
        path = Path(section.weights).expanduser()
        check_file(path, sha256=expected_sha256(section))
        state = load_state(path)
        found = _architecture(state, path)
        named = found if section.model == "Custom" else public_architecture(section.model)
        if found != named:
            raise WeightsError(
                f"{path} holds a SAM with {found}, but {section.model} has {named}",
                field="spec.proposals.sam.model",
                remedy="Name the model that belongs to the file.",
            )
        return cls(build_sam(state, source=str(path)), section, device=device)

    def parameters(self) -> dict[str, Any]:
        """Everything besides weights and image that the masks depend on, as JSON values."""
        return self._parameters

    def propose(self, image_HW3: NDArray[np.uint8], keys: tuple[str, ...] = ()) -> list[Proposal]:
        """Masks of an RGB image (H, W, 3) uint8, in the generator's order; `keys` are not used."""
        return [_proposal(found) for found in self._generator.generate(np.ascontiguousarray(image_HW3))]


def build_sam(state: StateDict, *, source: str) -> Sam:
    """Build the SAM whose weights these are, of whatever size, and load them strictly.

    WeightsError, naming `source` and the first ten keys, if a key is missing or foreign or of another shape.
    """
    architecture = _architecture(state, Path(source))
    with torch.device("meta"):
        model = _build(architecture)
    _check_keys(model, state, source=source)
    model.load_state_dict(dict(state), strict=True, assign=True)
    for buffer, values in (("pixel_mean", _PIXEL_MEAN), ("pixel_std", _PIXEL_STD)):
        model.register_buffer(buffer, torch.tensor(values).view(-1, 1, 1), persistent=False)
    return model.requires_grad_(False)


def _build(sizes: SamArchitecture) -> Sam:
    grid = sizes.image_size // sizes.patch_size
    encoder = ImageEncoderViT(
        depth=sizes.depth,
        embed_dim=sizes.embed_dim,
        img_size=sizes.image_size,
        mlp_ratio=sizes.mlp_dim / sizes.embed_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=sizes.heads,
        patch_size=sizes.patch_size,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=sizes.global_blocks,
        window_size=sizes.window,
        out_chans=sizes.out_channels,
    )
    prompts = PromptEncoder(
        embed_dim=sizes.out_channels,
        image_embedding_size=(grid, grid),
        input_image_size=(sizes.image_size, sizes.image_size),
        mask_in_chans=sizes.mask_channels,
    )
    transformer = TwoWayTransformer(
        depth=sizes.decoder_depth,
        embedding_dim=sizes.out_channels,
        mlp_dim=sizes.decoder_mlp_dim,
        num_heads=8,
    )
    decoder = MaskDecoder(
        num_multimask_outputs=sizes.masks_per_point,
        transformer=transformer,
        transformer_dim=sizes.out_channels,
        iou_head_depth=sizes.iou_head_depth,
        iou_head_hidden_dim=sizes.iou_head_dim,
    )
    return Sam(image_encoder=encoder, prompt_encoder=prompts, mask_decoder=decoder)


def _architecture(state: StateDict, path: Path) -> SamArchitecture:
    try:
        return architecture_of(state)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        found = ", ".join(list(state)[:_NAMES_SHOWN]) or "nothing"
        raise WeightsError(f"{path} holds no SAM: {error} (its first keys: {found})") from error


def _check_keys(model: nn.Module, state: StateDict, *, source: str) -> None:
    expected = {name: value.shape for name, value in model.state_dict().items()}
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is foreign" for name in state if name not in expected]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, not {tuple(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    if problems:
        shown = "; ".join(problems[:_NAMES_SHOWN])
        raise WeightsError(f"{source} does not fit a SAM ({len(problems)} keys): {shown}")


def _proposal(found: dict[str, Any]) -> Proposal:
    height, width = found["segmentation"]["size"]
    return Proposal(
        rle=Rle(size=[int(height), int(width)], counts=found["segmentation"]["counts"].encode()),
        predicted_iou=found["predicted_iou"],
        stability=found["stability_score"],
    )
