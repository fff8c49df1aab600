from __future__ import annotations

import argparse
import dataclasses
import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from semires_trainer.errors import ConfigError, WeightsError
from semires_trainer.proposals.masks import decode_masks
from semires_trainer.proposals.sam import SamProposer, build_sam
from semires_trainer.proposals.sam_key import PUBLIC_SHA256, expected_sha256
from semires_trainer.proposals.sam_weights import (
    architecture_of,
    check_file,
    load_state,
    public_architecture,
)
from semires_trainer.spec.resolved import ResolvedSam

SECTION = ResolvedSam(
    model="ViTB",
    weights="absent.pth",
    sha256=None,
    points_per_side=3,
    points_per_batch=4,
    pred_iou_threshold=0.0,
    stability_score_threshold=0.0,
    stability_score_offset=1.0,
    box_nms_threshold=1.0,
    crop_layers=0,
    min_mask_region_area=0,
    mode="Exact",
)


def tiny_sam() -> Sam:
    """A SAM of 64 x 64 images with seeded random weights, put together from the package's parts."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        depth=3,
        embed_dim=16,
        img_size=64,
        mlp_ratio=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=2,
        patch_size=16,
        use_rel_pos=True,
        global_attn_indexes=(1,),
        window_size=2,
        out_chans=32,
    )
    prompts = PromptEncoder(embed_dim=32, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=8)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=48, num_heads=8)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_depth=3, iou_head_hidden_dim=24)
    model = Sam(encoder, prompts, decoder).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                parameter.normal_(std=0.5)
    return model


@pytest.fixture(scope="module")
def model() -> Sam:
    return tiny_sam()


@pytest.fixture
def weights(model: Sam, tmp_path: Path) -> Path:
    path = tmp_path / "sam_tiny.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (9, 12, 3), dtype=np.uint8).repeat(5, axis=0).repeat(5, axis=1)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("model_name", "registry_name"), [("ViTB", "vit_b"), ("ViTL", "vit_l"), ("ViTH", "vit_h")])
def test_the_public_models_are_recognised_by_their_shapes(model_name: str, registry_name: str) -> None:
    with torch.device("meta"):
        state = sam_model_registry[registry_name]().state_dict()

    assert architecture_of(state) == public_architecture(model_name)


def test_the_loaded_model_proposes_what_the_package_does(model: Sam, weights: Path, image: NDArray[np.uint8]) -> None:
    loaded = build_sam(load_state(weights), source=str(weights))
    generator = SamAutomaticMaskGenerator(
        model,
        points_per_side=3,
        points_per_batch=4,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        box_nms_thresh=1.0,
    )

    proposals = SamProposer(loaded, SECTION).propose(image)

    expected = generator.generate(image)
    masks = decode_masks([proposal.rle for proposal in proposals], height=45, width=60)
    assert len(proposals) == len(expected) > 1
    assert np.array_equal(masks, [found["segmentation"] for found in expected])
    assert [proposal.predicted_iou for proposal in proposals] == [one["predicted_iou"] for one in expected]
    assert [proposal.stability for proposal in proposals] == [one["stability_score"] for one in expected]


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (200, 30)], ids=str)
def test_pictures_of_any_size_are_no_error(model: Sam, shape: tuple[int, int]) -> None:
    for proposal in SamProposer(model, SECTION).propose(np.full((*shape, 3), 90, np.uint8)):
        assert proposal.rle["size"] == list(shape)


def test_a_picture_in_which_nothing_is_stable_has_no_proposals(model: Sam, image: NDArray[np.uint8]) -> None:
    strict = dataclasses.replace(SECTION, pred_iou_threshold=1.0, stability_score_threshold=1.0)

    assert SamProposer(model, strict).propose(image) == []


def test_weights_of_another_size_than_the_named_model_are_refused_and_both_are_named(weights: Path) -> None:
    section = dataclasses.replace(SECTION, weights=str(weights), sha256=sha256(weights))

    with pytest.raises(WeightsError, match=r"3 blocks of width 16 .* but ViTB has 12 blocks of width 768"):
        SamProposer.load(section)


def test_a_custom_model_has_the_size_that_its_file_tells(weights: Path, image: NDArray[np.uint8]) -> None:
    section = dataclasses.replace(SECTION, model="Custom", weights=str(weights), sha256=sha256(weights))

    assert SamProposer.load(section).propose(image)


def test_a_wrong_checksum_names_both(weights: Path) -> None:
    section = dataclasses.replace(SECTION, weights=str(weights))

    with pytest.raises(WeightsError, match=rf"has sha256 {sha256(weights)}, expected {PUBLIC_SHA256['ViTB']}"):
        SamProposer.load(section)


def test_the_checksum_given_comes_before_the_public_one() -> None:
    given = dataclasses.replace(SECTION, sha256="AB" * 32)

    assert expected_sha256(given) == "ab" * 32
    assert expected_sha256(SECTION) == PUBLIC_SHA256["ViTB"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth does not exist"):
        check_file(tmp_path / "absent.pth", sha256="")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(b"\n<!DOCTYPE html><html>404</html>", "is a web page", id="html"),
        pytest.param(b"<?xml version='1.0'?><Error/>", "is a web page", id="xml-of-an-object-store"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer", id="lfs"),
    ],
)
def test_what_is_no_weights_file_is_recognised(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "sam.pth"
    path.write_bytes(content)

    with pytest.raises(WeightsError, match=complaint):
        check_file(path, sha256="")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"weight": torch.zeros(1), "trap": Trap()}, id="calls-code"),
        pytest.param({"args": argparse.Namespace(epochs=3)}, id="namespace"),
        pytest.param({"model": {"weight": torch.zeros(1)}}, id="nested"),
        pytest.param([torch.zeros(1)], id="list"),
    ],
)
def test_files_that_hold_more_than_tensors_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "sam.pth")

    with pytest.raises(WeightsError, match=r"sam\.pth (is not a file of weights|holds other things)"):
        load_state(tmp_path / "sam.pth")
    assert not (tmp_path / "sprung").exists()


def test_a_truncated_file_is_refused(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:5000])

    with pytest.raises(WeightsError, match="is not a file of weights"):
        load_state(weights)


def test_missing_and_foreign_keys_are_listed(model: Sam) -> None:
    state = dict(model.state_dict())
    del state["mask_decoder.iou_token.weight"]
    state["mask_decoder.extra"] = torch.zeros(1)
    state["image_encoder.neck.2.weight"] = torch.zeros(1, 2)

    with pytest.raises(WeightsError) as caught:
        build_sam(state, source="sam.pth")

    assert "(3 keys): mask_decoder.iou_token.weight is missing; mask_decoder.extra is foreign" in str(caught.value)
    assert "image_encoder.neck.2.weight has shape (1, 2), not (32, 32, 3, 3)" in str(caught.value)


def test_weights_of_another_kind_of_network_are_named() -> None:
    with pytest.raises(WeightsError, match=r"resnet\.pth holds no SAM.*first keys: conv1\.weight"):
        build_sam({"conv1.weight": torch.zeros(3)}, source="resnet.pth")


def test_removing_small_regions_without_opencv_is_a_configuration_error(model: Sam) -> None:
    section = dataclasses.replace(SECTION, min_mask_region_area=10)

    with pytest.raises(ConfigError, match=r"spec\.proposals\.sam\.minMaskRegionArea.*OpenCV"):
        SamProposer(model, section)


def test_points_decoded_at_once_change_neither_masks_nor_key(model: Sam, image: NDArray[np.uint8]) -> None:
    few, many = SamProposer(model, SECTION), SamProposer(model, dataclasses.replace(SECTION, points_per_batch=9))

    assert few.parameters() == many.parameters()
    assert len(few.propose(image)) == len(many.propose(image))
