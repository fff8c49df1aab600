from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semires_trainer.data.images import decode
from semires_trainer.proposals.build import build_key, build_proposer, convert_official, precomputed_keys
from semires_trainer.proposals.generate import ImageInput, ImageReader, key_of
from semires_trainer.proposals.masks import sha256_of
from semires_trainer.proposals.packed_cache import PackedCache
from semires_trainer.proposals.sam_key import PUBLIC_SHA256
from semires_trainer.spec.resolved import (
    ResolvedFelzenszwalb,
    ResolvedPrecomputed,
    ResolvedProposals,
    ResolvedSam,
)

FELZENSZWALB = ResolvedProposals(
    generator="Felzenszwalb",
    sam=None,
    felzenszwalb=ResolvedFelzenszwalb(scales=(50, 100), sigma=0.8, min_size=20, nms_iou=0.9),
    precomputed=None,
    store="proposals",
)
SAM = ResolvedProposals(
    generator="SAM",
    sam=ResolvedSam(
        model="ViTH",
        weights="absent.pth",
        sha256=None,
        points_per_side=32,
        points_per_batch=64,
        pred_iou_threshold=0.88,
        stability_score_threshold=0.95,
        stability_score_offset=1.0,
        box_nms_threshold=0.7,
        crop_layers=0,
        min_mask_region_area=0,
        mode="Exact",
    ),
    felzenszwalb=None,
    precomputed=None,
    store="proposals",
)


def png(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


def precomputed(folder: Path, keyed_by: str) -> ResolvedProposals:
    return ResolvedProposals(
        generator="Precomputed",
        sam=None,
        felzenszwalb=None,
        precomputed=ResolvedPrecomputed(path=str(folder), keyed_by=keyed_by),
        store="proposals",
    )


def test_the_key_of_sam_is_known_without_its_weights() -> None:
    key = build_key(SAM)

    assert (key.generator, key.weights_sha256) == ("SAM", PUBLIC_SHA256["ViTH"])


def test_the_key_of_sam_depends_on_the_model_and_the_grid_but_not_on_the_batch() -> None:
    assert SAM.sam is not None
    variants = {
        name: build_key(dataclasses.replace(SAM, sam=dataclasses.replace(SAM.sam, **change))).digest
        for name, change in {
            "model": {"model": "ViTB"},
            "grid": {"points_per_side": 16},
            "batch": {"points_per_batch": 8},
        }.items()
    }

    assert variants["batch"] == build_key(SAM).digest
    assert len({build_key(SAM).digest, variants["model"], variants["grid"]}) == 3


def test_the_key_is_that_of_the_proposer(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text("[]")
    for section in (FELZENSZWALB, precomputed(tmp_path, "Ref")):
        assert build_key(section) == key_of(build_proposer(section))


def test_every_parameter_of_felzenszwalb_is_in_the_key() -> None:
    changes = {"scales": (50,), "sigma": 0.5, "min_size": 10, "nms_iou": 0.5}
    assert FELZENSZWALB.felzenszwalb is not None
    keys = {
        build_key(
            dataclasses.replace(
                FELZENSZWALB, felzenszwalb=dataclasses.replace(FELZENSZWALB.felzenszwalb, **{name: value})
            )
        ).digest
        for name, value in changes.items()
    }

    assert len(keys | {build_key(FELZENSZWALB).digest}) == 5


@pytest.mark.parametrize(
    ("keyed_by", "keys"), [pytest.param("Ref", ("8", "9"), id="refs"), pytest.param("Image", ("7",), id="image")]
)
def test_files_are_named_by_ref_or_by_image(tmp_path: Path, keyed_by: str, keys: tuple[str, ...]) -> None:
    assert precomputed_keys(precomputed(tmp_path, keyed_by), image_id=7, ref_ids=[8, 9]) == keys


def test_official_files_become_a_store_that_trains_like_the_official_loader(
    tmp_path: Path, proposal_files: Any
) -> None:
    pictures: dict[str, bytes] = {}
    images = []
    (tmp_path / "official").mkdir()
    for index in range(5):
        height, width = proposal_files.size(index)
        pictures[f"{index}.png"] = png(height, width)
        (tmp_path / "official" / f"{index}.json").write_text(json.dumps(proposal_files.images[index]["rle"]))
        digest = sha256_of(pictures[f"{index}.png"])
        images.append(ImageInput(file_name=f"{index}.png", sha256=digest, keys=("99", str(index))))
    reader = ImageReader(read=pictures.__getitem__, decode=decode)

    store, report = convert_official(tmp_path / "official", tmp_path / "store", images, reader=reader)
    _, again = convert_official(tmp_path / "official", tmp_path / "store", images, reader=reader)

    cache = PackedCache(store, 480)
    cache.build()
    assert (report.generated, report.proposals, again.generated) == (5, 20, 0)
    assert store.key == build_key(precomputed(tmp_path / "official", "Ref"))
    for index, image in enumerate(images):
        assert np.array_equal(cache.load(image.sha256)[0], np.packbits(proposal_files.at_480(index), axis=2))


def test_other_generators_need_no_file_names() -> None:
    assert precomputed_keys(FELZENSZWALB, image_id=7, ref_ids=[8, 9]) == ()
