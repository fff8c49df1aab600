"""Small data sets in the formats that users bring, and the builders that tests vary them with."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semires_trainer.data.records import Annotation

DATA = Path(__file__).parents[2] / "data"

SQUARE = [[2.0, 2.0, 12.0, 2.0, 12.0, 10.0, 2.0, 10.0]]


def make_annotation(segmentation: Any, **changes: Any) -> Annotation:
    fields = {"id": 7, "image_id": 1, "category_id": 0, "bbox": (0.0, 0.0, 1.0, 1.0), "iscrowd": False}
    return Annotation(segmentation=segmentation, **{**fields, **changes})


def jpeg_bytes(width: int, height: int, *, seed: int = 0) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def custom_document() -> dict[str, Any]:
    """3 images, 4 objects; image 3 belongs to val."""
    images = [
        {"id": key, "file_name": f"{key}.jpg", "height": 24, "width": 32, "split": "val" if key == 3 else "train"}
        for key in (1, 2, 3)
    ]
    annotations = [
        {
            "id": 10 + place,
            "image_id": image_id,
            "category_id": 1,
            "bbox": [2, 2, 10, 8],
            "iscrowd": 0,
            "segmentation": SQUARE,
            "expressions": [f"object {place}", f"thing {place} on the left"],
        }
        for place, image_id in enumerate((1, 1, 2, 3))
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}


def refer_documents() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The same objects as refs(unc).p and instances.json; REFER's annotations hold no sentences."""
    document = custom_document()
    splits = {image["id"]: image.pop("split") for image in document["images"]}
    refs = [
        {
            "sent_ids": [2 * place, 2 * place + 1],
            "file_name": f"{item['image_id']}_{item['id']}.jpg",
            "ann_id": item["id"],
            "ref_id": 100 + place,
            "image_id": item["image_id"],
            "split": splits[item["image_id"]],
            "category_id": 1,
            "sentences": [
                {"tokens": text.split(), "raw": text.title(), "sent_id": 2 * place + number, "sent": text}
                for number, text in enumerate(item.pop("expressions"))
            ],
        }
        for place, item in enumerate(document["annotations"])
    ]
    return refs, document


@pytest.fixture
def write_custom(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def write(document: dict[str, Any]) -> Path:
        path = tmp_path / "objects.json"
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.fixture
def write_refer_files(tmp_path: Path) -> Callable[[list[dict[str, Any]], dict[str, Any]], Path]:
    def write(refs: list[dict[str, Any]], instances: dict[str, Any]) -> Path:
        folder = tmp_path / "refer" / "refcoco"
        folder.mkdir(parents=True)
        (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
        (folder / "instances.json").write_text(json.dumps(instances))
        return folder.parent

    return write


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for key in (1, 2, 3):
        (folder / f"{key}.jpg").write_bytes(jpeg_bytes(32, 24, seed=key))
    return folder
