"""Weights of Segment Anything: which file, which model, loaded without running anything in it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from semires_trainer.atomic import file_sha256
from semires_trainer.errors import WeightsError

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamArchitecture:
    """Everything about a SAM that its weights tell. Only the decoder's 8 heads cannot be read off shapes."""

    image_size: int
    patch_size: int
    embed_dim: int
    depth: int
    heads: int
    window: int
    global_blocks: tuple[int, ...]
    mlp_dim: int
    out_channels: int
    mask_channels: int
    decoder_depth: int
    decoder_mlp_dim: int
    iou_head_depth: int
    iou_head_dim: int
    masks_per_point: int

    def __str__(self) -> str:
        blocks = f"{self.depth} blocks of width {self.embed_dim} with {self.heads} heads"
        return f"{blocks}, images {self.image_size}"


def public_architecture(model: str) -> SamArchitecture:
    """The published model called ViTB, ViTL or ViTH."""
    embed_dim, depth, heads, global_blocks = {
        "ViTB": (768, 12, 12, (2, 5, 8, 11)),
        "ViTL": (1024, 24, 16, (5, 11, 17, 23)),
        "ViTH": (1280, 32, 16, (7, 15, 23, 31)),
    }[model]
    return SamArchitecture(
        image_size=1024,
        patch_size=16,
        embed_dim=embed_dim,
        depth=depth,
        heads=heads,
        window=14,
        global_blocks=global_blocks,
        mlp_dim=4 * embed_dim,
        out_channels=256,
        mask_channels=16,
        decoder_depth=2,
        decoder_mlp_dim=2048,
        iou_head_depth=3,
        iou_head_dim=256,
        masks_per_point=3,
    )


def architecture_of(state: StateDict) -> SamArchitecture:
    """Read a SAM's architecture off the shapes of its weights; KeyError or ValueError if it is no SAM."""
    blocks = range(_count(state, "image_encoder.blocks"))
    patch = state["image_encoder.patch_embed.proj.weight"]
    grid = state["image_encoder.pos_embed"].shape[1]
    positions = [state[f"image_encoder.blocks.{block}.attn.rel_pos_h"] for block in blocks]
    spans = [(len(table) + 1) // 2 for table in positions]
    global_blocks = tuple(block for block, span in zip(blocks, spans, strict=True) if span == grid)
    return SamArchitecture(
        image_size=grid * patch.shape[2],
        patch_size=patch.shape[2],
        embed_dim=patch.shape[0],
        depth=len(blocks),
        heads=patch.shape[0] // positions[0].shape[1],
        window=min(spans),
        global_blocks=global_blocks,
        mlp_dim=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
        out_channels=state["image_encoder.neck.0.weight"].shape[0],
        mask_channels=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        decoder_depth=_count(state, "mask_decoder.transformer.layers"),
        decoder_mlp_dim=state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        iou_head_depth=_count(state, "mask_decoder.iou_prediction_head.layers"),
        iou_head_dim=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        masks_per_point=state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
    )


def check_file(path: Path, *, sha256: str) -> None:
    """WeightsError unless the file exists, is not a web page or a pointer, and has the checksum."""
    field = "spec.proposals.sam.weights"
    if not path.is_file():
        raise WeightsError(f"{path} does not exist", field=field, remedy="Download the SAM weights first.")
    with path.open("rb") as handle:
        start = handle.read(512).lstrip().lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml")):
            remedy = "The download answered with an error page; fetch the file again."
            raise WeightsError(f"{path} is a web page, not weights", field=field, remedy=remedy)
        if start.startswith(b"version https://git-lfs"):
            raise WeightsError(f"{path} is a Git LFS pointer", field=field, remedy="Run `git lfs pull`.")
    found = file_sha256(path)
    if found != sha256:
        raise WeightsError(
            f"{path} has sha256 {found}, expected {sha256}",
            field="spec.proposals.sam.sha256",
            remedy="Fetch the file again, or set sha256 if these are the weights you mean.",
        )


def load_state(path: Path) -> dict[str, Tensor]:
    """Read a .pth file of tensors, executing nothing (weights_only); WeightsError if it holds more."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is not a file of weights ({reason})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} holds other things than tensors", remedy="Use a file of the original format.")
    return state


def _count(state: StateDict, prefix: str) -> int:
    """How many numbered modules there are below a prefix."""
    depth = prefix.count(".") + 1
    numbers = {int(name.split(".")[depth]) for name in state if name.startswith(f"{prefix}.")}
    if numbers != set(range(len(numbers))) or not numbers:
        raise ValueError(f"the modules below {prefix} are not numbered from 0")
    return len(numbers)
