"""The photos of examples/photos: their files and outlines are sound, and a small model learns what is called what."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from semires_trainer.config import resolve
from semires_trainer.data.custom import load_custom
from semires_trainer.data.datasets import Inputs
from semires_trainer.data.images import ImageSource
from semires_trainer.data.masks import rasterize
from semires_trainer.data.pictures import PictureLoader
from semires_trainer.data.records import Dataset, Ref
from semires_trainer.data.splits import split_labeled
from semires_trainer.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from semires_trainer.data.transforms import normalize, to_tensor
from semires_trainer.manifest import load_manifest
from semires_trainer.metrics import intersection_union
from semires_trainer.models.lavt import LAVT, LAVTConfig
from semires_trainer.models.text import TextConfig

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "examples" / "photos"
DOCUMENT: dict[str, Any] = json.loads((PHOTOS / "annotations.json").read_text())

each_image = pytest.mark.parametrize(
    "image", [pytest.param(image, id=image["file_name"]) for image in DOCUMENT["images"]]
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_custom("Custom", PHOTOS / "annotations.json")


def annotations_of(image: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in DOCUMENT["annotations"] if item["image_id"] == image["id"]]


def test_every_photo_has_objects_and_two_thirds_are_for_training(dataset: Dataset) -> None:
    pictured = {ref.image_id for ref in dataset.refs}
    training = {ref.image_id for ref in dataset.refs_of("train")}

    assert pictured == set(dataset.images)
    assert (len(training), len(pictured)) == (5, 8)
    assert dataset.splits == ("train", "val")


def test_the_images_folder_holds_the_annotated_photos_and_nothing_else() -> None:
    assert sorted(path.name for path in (PHOTOS / "images").iterdir()) == sorted(
        image["file_name"] for image in DOCUMENT["images"]
    )


@each_image
def test_a_photo_is_the_file_that_was_annotated(image: dict[str, Any]) -> None:
    path = PHOTOS / "images" / image["file_name"]

    with Image.open(path) as picture:
        assert (picture.size, picture.mode) == ((image["width"], image["height"]), "RGB")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == image["sha256"]


@each_image
def test_licenses_name_the_photo_and_its_terms(image: dict[str, Any]) -> None:
    terms = {1: "Apache-2.0", 2: "public domain", 3: "CC0 1.0"}
    rows = (PHOTOS / "LICENSES.md").read_text().splitlines()

    (row,) = [row for row in rows if row.startswith(f"| `{image['file_name']}` |")]

    assert terms[image["license"]] in row


@each_image
def test_every_mask_has_pixels_inside_and_outside_of_it(dataset: Dataset, image: dict[str, Any]) -> None:
    for item in annotations_of(image):
        mask = rasterize(dataset.annotations[item["id"]], image["height"], image["width"])

        assert 0 < mask.sum() < mask.size


@each_image
def test_vertices_lie_in_the_image(image: dict[str, Any]) -> None:
    polygons = [polygon for item in annotations_of(image) for polygon in item["segmentation"]]
    vertices = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])

    assert (vertices >= 0).all()
    assert (vertices <= (image["width"], image["height"])).all()


@each_image
def test_box_and_area_are_those_of_the_polygons(image: dict[str, Any]) -> None:
    for item in annotations_of(image):
        parts = coco_mask.frPyObjects(item["segmentation"], image["height"], image["width"])
        whole = coco_mask.merge(parts)

        assert item["area"] == coco_mask.area(whole)
        assert item["bbox"] == coco_mask.toBbox(whole).tolist()


@each_image
def test_no_two_objects_of_a_photo_share_an_expression(image: dict[str, Any]) -> None:
    expressions = [text for item in annotations_of(image) for text in item["expressions"]]

    assert len(set(expressions)) == len(expressions) == 3 * len(annotations_of(image))


def test_the_manifest_of_the_guide_labels_some_photos_and_leaves_others(dataset: Dataset, tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "custom-data.md").read_text()
    (tmp_path / "job.yaml").write_text(guide.split("```yaml\n")[1].split("```")[0])

    section = resolve(load_manifest(tmp_path / "job.yaml")).dataset
    split = split_labeled(dataset, image_ids=section.labeled_image_ids)

    assert (ROOT / section.annotations, ROOT / section.images) == (PHOTOS / "annotations.json", PHOTOS / "images")
    assert split.labeled_refs
    assert split.unlabeled_refs


def test_the_example_of_the_guide_is_read_as_it_stands(dataset: Dataset, tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "custom-data.md").read_text()
    (tmp_path / "photos.json").write_text(guide.split("```json\n")[1].split("```")[0])

    (ref,) = load_custom("Custom", tmp_path / "photos.json").refs

    assert ref in dataset.refs


def test_the_sheet_of_the_documentation_can_be_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, shown = tmp_path / "photos.png", ROOT / "docs" / "images" / "photos.png"
    monkeypatch.setattr(sys, "argv", ["make_sheet.py", str(drawn)])

    runpy.run_path(str(PHOTOS / "make_sheet.py"), run_name="__main__")

    with Image.open(drawn) as new, Image.open(shown) as old:
        assert new.size == old.size
    assert shown.stat().st_size <= 500_000


SIZE = 96
STEPS = 80
SENTENCES = (
    "the dog",
    "the metal bowl",
    "the person",
    "the leftmost paper bag",
    "the rightmost paper bag",
    "the saucer",
    "the coffee",
)
OTHER_OBJECT = (1, 2, 0, 4, 3, 6, 5)
"""For each sentence the place of another one about the same photo."""


class Batch(NamedTuple):
    image_BCHW: Tensor
    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    truth_BHW: Tensor


def find_ref(dataset: Dataset, sentence: str) -> Ref:
    (ref,) = [ref for ref in dataset.refs if sentence in ref.expressions]
    return ref


def read_batch(inputs: Inputs) -> Batch:
    refs = [find_ref(inputs.dataset, sentence) for sentence in SENTENCES]
    texts = [inputs.text(sentence) for sentence in SENTENCES]
    images = [to_tensor(inputs.pictures.load(inputs.dataset.images[ref.image_id]).pixels) for ref in refs]
    return Batch(
        normalize(torch.stack(images)),
        torch.stack([text["input_ids"] for text in texts]),
        torch.stack([text["attention_mask"] for text in texts]),
        torch.stack([inputs.truth_at_size(ref) for ref in refs]).bool(),
    )


def tiny_model(vocab_size: int, max_tokens: int) -> LAVT:
    text = TextConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        layers=1,
        heads=2,
        intermediate_size=64,
        max_positions=max_tokens,
        dropout=0.0,
    )
    return LAVT(
        LAVTConfig(
            embed_dim=8,
            depths=(1, 1, 1, 1),
            heads=(1, 2, 4, 8),
            window=3,
            image_size=SIZE,
            drop_path=0.0,
            text=text,
        )
    )


def fit(model: LAVT, batch: Batch) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    for _ in range(STEPS):
        logits = model.train()(batch.image_BCHW, batch.input_ids_BT, batch.attention_mask_BT)
        loss = torch.nn.functional.cross_entropy(logits, batch.truth_BHW.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


@pytest.fixture(scope="module")
def overfitted(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Batch, Callable[..., Tensor]]:
    """The batch and a function from image and words to masks (B, H, W), learned from nothing but the batch."""
    vocabulary = tmp_path_factory.mktemp("photos") / "vocab.txt"
    words = dict.fromkeys(word for sentence in SENTENCES for word in sentence.split())
    vocabulary.write_text("\n".join([*SPECIAL_TOKENS, *words]))
    tokenizer = Tokenizer(vocabulary, max_tokens=8)
    pictures = PictureLoader(ImageSource(PHOTOS / "images"), size=SIZE)
    batch = read_batch(Inputs(dataset=dataset, pictures=pictures, tokenizer=tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny_model(tokenizer.vocab_size, tokenizer.max_tokens)
        fit(model, batch)

    @torch.inference_mode()
    def predict(image_BCHW: Tensor, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        masks_BHW: Tensor = model(image_BCHW, input_ids_BT, attention_mask_BT).argmax(dim=1).bool()
        return masks_BHW

    return batch, predict


def ious(prediction_BHW: Tensor, truth_BHW: Tensor) -> Tensor:
    intersection_B, union_B = intersection_union(prediction_BHW, truth_BHW)
    return intersection_B / union_B


def test_a_small_model_learns_which_object_each_sentence_means(
    overfitted: tuple[Batch, Callable[..., Tensor]],
) -> None:
    batch, predict = overfitted

    iou_B = ious(predict(*batch[:3]), batch.truth_BHW)

    assert iou_B.mean() >= 0.8
    assert iou_B.min() >= 0.6


def test_another_sentence_about_the_same_photo_selects_the_other_object(
    overfitted: tuple[Batch, Callable[..., Tensor]],
) -> None:
    batch, predict = overfitted
    other = list(OTHER_OBJECT)

    prediction_BHW = predict(batch.image_BCHW, batch.input_ids_BT[other], batch.attention_mask_BT[other])

    assert ious(prediction_BHW, batch.truth_BHW[other]).mean() >= 0.8
    assert ious(prediction_BHW, batch.truth_BHW).mean() <= 0.1
