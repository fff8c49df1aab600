"""Data sets load whole, and each kind of bad input is one line naming file, record, field and remedy."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semires_trainer.data.load import load_dataset
from semires_trainer.data.masks import encode_rle, rasterize
from semires_trainer.data.records import Dataset
from semires_trainer.data.refer import write_refer
from semires_trainer.errors import ConfigError, DataError

from .conftest import custom_document, refer_documents

WriteCustom = Callable[[dict[str, Any]], Path]
WriteRefer = Callable[[list[dict[str, Any]], dict[str, Any]], Path]
Change = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Section:
    name: str
    annotations: str


def load(name: str, path: Path) -> Dataset:
    return load_dataset(Section(name, str(path)))


def test_a_custom_data_set_has_one_ref_an_annotation(write_custom: WriteCustom) -> None:
    dataset = load("Custom", write_custom(custom_document()))

    assert [(ref.ref_id, ref.image_id, ref.split, ref.category) for ref in dataset.refs] == [
        (10, 1, "train", "box"),
        (11, 1, "train", "box"),
        (12, 2, "train", "box"),
        (13, 3, "val", "box"),
    ]
    assert dataset.refs[0].expressions == dataset.refs[0].raw == ("object 0", "thing 0 on the left")
    assert dataset.splits == ("train", "val")


def test_only_outlines_and_expressions_are_needed(write_custom: WriteCustom) -> None:
    document = custom_document()
    del document["categories"]
    for image in document["images"]:
        del image["split"]
    for item in document["annotations"]:
        for key in ("bbox", "category_id", "iscrowd"):
            del item[key]

    dataset = load("Custom", write_custom(document))

    assert {ref.split for ref in dataset.refs} == {"train"}
    assert {ref.category for ref in dataset.refs} == {"object"}


@pytest.mark.parametrize("below", ["", "refcoco"], ids=["data-folder", "own-folder"])
def test_refer_files_load_from_either_folder(below: str, write_refer_files: WriteRefer) -> None:
    dataset = load("RefCOCO", write_refer_files(*refer_documents()) / below)

    assert [ref.ref_id for ref in dataset.refs] == [100, 101, 102, 103]
    assert dataset.refs[1].expressions == ("object 1", "thing 1 on the left")
    assert dataset.refs[1].raw == ("Object 1", "Thing 1 On The Left")
    assert dataset.images[dataset.refs[3].image_id].file_name == "3.jpg"


@pytest.mark.parametrize(
    ("name", "folder", "file_name"),
    [
        ("RefCOCO", "refcoco", "refs(unc).p"),
        ("RefCOCOPlus", "refcoco+", "refs(unc).p"),
        ("GRefUMD", "refcocog", "refs(umd).p"),
        ("GRefGoogle", "refcocog", "refs(google).p"),
    ],
)
def test_each_published_data_set_has_its_file(name: str, folder: str, file_name: str, tmp_path: Path) -> None:
    refs, instances = refer_documents()
    (tmp_path / folder).mkdir()
    (tmp_path / folder / file_name).write_bytes(pickle.dumps(refs))
    (tmp_path / folder / "instances.json").write_text(json.dumps(instances))

    assert len(load(name, tmp_path).refs) == 4


def test_annotations_no_ref_points_to_are_left_out(write_refer_files: WriteRefer) -> None:
    refs, instances = refer_documents()
    instances["annotations"].append({**instances["annotations"][0], "id": 999, "segmentation": "whatever"})
    instances["images"].append({"id": 99, "file_name": "99.jpg", "height": 0, "width": 0})

    dataset = load("RefCOCO", write_refer_files(refs, instances))

    assert sorted(dataset.annotations) == [10, 11, 12, 13]
    assert sorted(dataset.images) == [1, 2, 3]


def test_a_sentence_that_refers_cleaning_emptied_is_read_as_typed(write_refer_files: WriteRefer) -> None:
    refs, instances = refer_documents()
    refs[0]["sentences"][0].update(sent="", raw="?!")

    dataset = load("RefCOCO", write_refer_files(refs, instances))

    assert dataset.refs[0].expressions[0] == dataset.refs[0].raw[0] == "?!"


def test_what_write_refer_writes_loads_as_it_was(write_custom: WriteCustom, tmp_path: Path) -> None:
    document = custom_document()
    mask = np.zeros((24, 32), dtype=bool)
    mask[3:9, 4:20] = True
    document["annotations"][1]["segmentation"] = encode_rle(mask)
    before = load("Custom", write_custom(document))

    write_refer(before, tmp_path / "out")
    after = load("RefCOCO", tmp_path / "out")

    assert after.refs == before.refs
    assert after.annotations == before.annotations
    assert after.images == before.images
    assert np.array_equal(rasterize(after.annotations[11], 24, 32), mask)


def test_write_refer_uses_refers_own_fields(write_custom: WriteCustom, tmp_path: Path) -> None:
    write_refer(load("Custom", write_custom(custom_document())), tmp_path, split_by="umd")

    refs = pickle.loads((tmp_path / "refs(umd).p").read_bytes())
    instances = json.loads((tmp_path / "instances.json").read_text())
    reference, reference_instances = refer_documents()
    assert set(refs[0]) == set(reference[0])
    assert set(refs[0]["sentences"][0]) == {"tokens", "raw", "sent_id", "sent"}
    assert refs[2]["file_name"] == "2_12.jpg"
    assert [key for ref in refs for key in ref["sent_ids"]] == list(range(8))
    assert set(reference_instances["annotations"][0]) | {"area"} == set(instances["annotations"][0])
    assert instances["annotations"][0]["area"] == 80


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("train", ["train"]),
        ("val", ["val"]),
        ("test", ["testA", "testB", "testAB"]),
        ("testA", ["testA", "testAB"]),
        ("testB", ["testB", "testAB"]),
    ],
)
def test_splits_follow_refers_rule(wanted: str, found: list[str], write_refer_files: WriteRefer) -> None:
    refs, instances = refer_documents()
    refs.append({**refs[3], "ref_id": 104})
    for ref, split in zip(refs, ["train", "val", "testA", "testB", "testAB"], strict=True):
        ref["split"] = split

    dataset = load("RefCOCO", write_refer_files(refs, instances))

    assert [ref.split for ref in dataset.refs_of(wanted)] == found


def test_a_split_that_does_not_exist_names_those_that_do(write_custom: WriteCustom) -> None:
    dataset = load("Custom", write_custom(custom_document()))

    with pytest.raises(DataError, match=r"evaluate: .*objects\.json.* has no split 'tset'.* train, val"):
        dataset.refs_of("tset")


def _set(path: str, value: Any) -> Change:
    """Set the element at a path such as annotations.0.expressions."""

    def change(document: dict[str, Any]) -> None:
        *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
        target: Any = document
        for key in parents:
            target = target[key]
        target[last] = value

    return change


def _drop(path: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
        target: Any = document
        for key in parents:
            target = target[key]
        del target[last]

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(_drop("annotations.1.expressions"), "expressions: annotation 11 in .*no expression", id="none"),
        pytest.param(_set("annotations.1.expressions", []), "annotation 11 .*no expression", id="no-expression"),
        pytest.param(
            _set("annotations.1.expressions", ["ok", "  "]),
            r"expressions\[1\]: annotation 11 .*empty sentence",
            id="empty",
        ),
        pytest.param(_set("annotations.1.expressions", ["word " * 500]), "annotation 11 .*500 words", id="500-words"),
        pytest.param(_set("annotations.1.expressions", [1.5]), "must be a string, got float", id="float-for-text"),
        pytest.param(_set("annotations.1.expressions", "red"), "must be a list, got str 'red'", id="text-for-list"),
        pytest.param(_set("annotations.1.id", 10), "annotation id 10 is used twice", id="annotation-twice"),
        pytest.param(_set("images.1.id", 1), "image id 1 is used twice", id="image-twice"),
        pytest.param(_set("annotations.1.image_id", 77), "image_id: annotation 11 in .*no image 77", id="no-image"),
        pytest.param(_set("annotations.1.image_id", "one"), "must be an integer, got str 'one'", id="text-for-int"),
        pytest.param(
            _set("annotations.1.segmentation", None), "segmentation: annotation 11 .*polygons", id="no-outline"
        ),
        pytest.param(
            _set("annotations.1.segmentation", [[1, 2, "3", 4, 5, 6]]), "must be polygons", id="text-in-polygon"
        ),
        pytest.param(
            _set("annotations.1.segmentation", [[90, 1, 99, 1, 95, 9]]),
            "annotation 11 .*outside the image",
            id="outside",
        ),
        pytest.param(_set("annotations.1.bbox", [1, 2, 3]), "bbox: annotation 11 .*four finite numbers", id="box"),
        pytest.param(_set("images.0.height", 0), "height: image 1 .*1 to 65500 pixels, got 0", id="no-height"),
        pytest.param(_drop("images.0.file_name"), "file_name: image 1 in .*is missing", id="no-file-name"),
        pytest.param(_set("images.0.split", "my split"), "split: image 1 .*'my split' is not", id="split-name"),
        pytest.param(_set("images", {}), "images: .*must hold a list of images, got dict", id="images-no-list"),
        pytest.param(_set("images.0", 5), "image at position 0 must be an object", id="image-no-object"),
        pytest.param(_drop("annotations"), "must hold a list of annotations", id="no-annotations"),
        pytest.param(_set("annotations", []), "has no annotation", id="empty-annotations"),
    ],
)
def test_bad_custom_data_is_named(change: Change, problem: str, write_custom: WriteCustom) -> None:
    document = copy.deepcopy(custom_document())
    change(document)
    path = write_custom(document)

    with pytest.raises(DataError, match=problem) as caught:
        load("Custom", path)
    assert "objects.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(
            _set("refs.1.ann_id", 99), r"ann_id: ref 101 in .*refs\(unc\)\.p: no annotation 99", id="annotation"
        ),
        pytest.param(_set("refs.1.image_id", 99), "ref 101 .*no image 99", id="image"),
        pytest.param(
            _set("refs.1.image_id", 2), "ref 101 .*image 2, but its annotation 11 belongs to image 1", id="join"
        ),
        pytest.param(_set("refs.1.category_id", 5), "category_id: ref 101 .*category 5 is not in", id="category"),
        pytest.param(_set("refs.1.ref_id", 100), "ref id 100 is used twice", id="ref-twice"),
        pytest.param(_set("refs.1.sentences", []), "sentences: ref 101 .*no expression", id="no-sentence"),
        pytest.param(_set("refs.1.sentences.0", "red"), r"sentences\[0\]: ref 101 .*dictionary", id="sentence-type"),
        pytest.param(
            _set("refs.1.sentences.0", {"sent": " ", "raw": ""}), r"sentences\[0\]\.sent: ref 101 .*empty", id="empty"
        ),
        pytest.param(_set("refs.1.sentences.0.sent", 3), r"\.sent: ref 101 .*must be a string", id="number"),
        pytest.param(_set("refs.1.sentences.0.sent", "a " * 500), "ref 101 .*500 words", id="500-words"),
        pytest.param(_drop("refs.1.split"), "split: ref 101 in .*is missing", id="no-split"),
        pytest.param(_drop("instances.categories"), "list of categorys|categories", id="no-categories"),
    ],
)
def test_bad_refer_data_is_named(change: Change, problem: str, write_refer_files: WriteRefer) -> None:
    refs, instances = refer_documents()
    change({"refs": refs, "instances": instances})

    with pytest.raises(DataError, match=problem):
        load("RefCOCO", write_refer_files(refs, instances))


@pytest.mark.parametrize("content", [pytest.param("{", id="cut"), pytest.param("[" * 100_000, id="deep")])
def test_json_that_does_not_parse_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)

    with pytest.raises(DataError, match=r"spec\.dataset\.annotations: .*a\.json is no valid JSON"):
        load("Custom", tmp_path / "a.json")


def test_missing_files_name_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json can't be read: No such file"):
        load("Custom", tmp_path / "a.json")
    with pytest.raises(DataError, match=r"refcoco/refs\(unc\)\.p and .*Give the folder that holds refcoco"):
        load("RefCOCO", tmp_path)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"spec\.dataset\.name: .*'refcoco'.*RefCOCOPlus"):
        load("refcoco", tmp_path)
