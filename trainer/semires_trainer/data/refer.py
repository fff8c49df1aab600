"""REFER's own files: refs(unc|umd|google).p and instances.json, as RefCOCO, RefCOCO+, G-Ref come."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from semires_trainer.atomic import replace_file
from semires_trainer.data.coco import parse_annotations, parse_images
from semires_trainer.data.expressions import checked_expression
from semires_trainer.data.fields import Record, read_json, records_of, unique
from semires_trainer.data.masks import rasterize
from semires_trainer.data.records import Annotation, Dataset, ImageRecord, Ref
from semires_trainer.data.safe_pickle import load_plain_pickle
from semires_trainer.errors import DataError

FILES = {
    "RefCOCO": ("refcoco", "refs(unc).p"),
    "RefCOCOPlus": ("refcoco+", "refs(unc).p"),
    "GRefUMD": ("refcocog", "refs(umd).p"),
    "GRefGoogle": ("refcocog", "refs(google).p"),
}
"""Manifest name -> (folder, refs file) under spec.dataset.annotations."""

INSTANCES = "instances.json"


def load_refer(name: str, annotations: Path) -> Dataset:
    """Read one of REFER's data sets; `annotations` is REFER's data folder or the data set's own folder in it.

    Only images and annotations that refs point to are kept (instances.json holds 4 times as many).
    Raises DataError naming file, record and field for anything missing, contradictory or of a wrong type.
    """
    refs_file = find_refs_file(name, annotations)
    instances_file = refs_file.with_name(INSTANCES)
    ref_records = records_of(load_plain_pickle(refs_file), source=refs_file, kind="ref", id_field="ref_id")
    instances = read_json(instances_file, field="spec.dataset.annotations")
    if not isinstance(instances, dict):
        raise DataError(f"{instances_file} must hold an object with images and annotations")
    categories = _parse_categories(instances, instances_file)
    refs = _parse_refs(ref_records, categories)
    images = parse_images(instances, source=instances_file, keep={ref.image_id for ref in refs})
    annotation_ids = {ref.annotation_id for ref in refs}
    outlines = parse_annotations(instances, source=instances_file, images=images, keep=annotation_ids)
    _check_joins(refs, images, outlines, refs_file=refs_file)
    return Dataset(name=name, source=str(instances_file), images=images, annotations=outlines, refs=refs)


def refs_candidates(name: str) -> tuple[str, str]:
    """Where the refs pickle of data set `name` may lie below the annotations folder, best first."""
    folder, file_name = FILES[name]
    return f"{folder}/{file_name}", file_name


def find_refs_file(name: str, annotations: Path) -> Path:
    """The refs pickle of data set `name`, in `annotations` or its sub-folder; DataError naming both."""
    candidates = [annotations / candidate for candidate in refs_candidates(name)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    folder, file_name = FILES[name]
    raise DataError(
        f"no {file_name} for {name}: looked for {candidates[0]} and {candidates[1]}",
        field="spec.dataset.annotations",
        remedy=f"Give the folder that holds {folder}/{file_name} and {folder}/{INSTANCES}.",
    )


def write_refer(dataset: Dataset, folder: Path, *, split_by: str = "unc") -> None:
    """Write `dataset` to folder/refs(<split_by>).p and folder/instances.json exactly in REFER's layout.

    The pickle is protocol 2 and holds dict, list, str and int only, as the original. Files appear whole.
    """
    areas = {item.id: _area(item, dataset) for item in dataset.annotations.values()}
    names = {dataset.annotations[ref.annotation_id].category_id: ref.category for ref in dataset.refs}
    instances = {
        "info": {"description": f"{dataset.name} in REFER's format"},
        "licenses": [],
        "images": [_image_entry(image) for image in dataset.images.values()],
        "annotations": [_annotation_entry(item, areas[item.id]) for item in dataset.annotations.values()],
        "categories": [{"id": key, "name": names[key], "supercategory": names[key]} for key in sorted(names)],
    }
    with replace_file(folder / INSTANCES) as temporary:
        temporary.write_text(json.dumps(instances, allow_nan=False), encoding="utf-8")
    with replace_file(folder / f"refs({split_by}).p") as temporary:
        temporary.write_bytes(pickle.dumps(list(_ref_entries(dataset)), protocol=2))


def _parse_categories(instances: dict[str, Any], source: Path) -> dict[int, str]:
    records = records_of(instances.get("categories"), source=source, kind="category", id_field="id")
    return unique(((record, record.integer("id"), record.text("name")) for record in records), field="id")


def _parse_refs(records: list[Record], categories: dict[int, str]) -> tuple[Ref, ...]:
    parsed = ((record, record.integer("ref_id"), _parse_ref(record, categories)) for record in records)
    return tuple(unique(parsed, field="ref_id").values())


def _parse_ref(record: Record, categories: dict[int, str]) -> Ref:
    listed = enumerate(record.items("sentences"))
    sentences = [_parse_sentence(record, place, value) for place, value in listed]
    if not sentences:
        raise record.error("sentences", "has no expression", remedy="Remove the ref or give it a sentence.")
    category = record.integer("category_id")
    if category not in categories:
        raise record.error("category_id", f"category {category} is not in {INSTANCES}")
    return Ref(
        ref_id=record.integer("ref_id"),
        annotation_id=record.integer("ann_id"),
        image_id=record.integer("image_id"),
        split=record.text("split"),
        category=categories[category],
        expressions=tuple(sent for sent, _ in sentences),
        raw=tuple(raw for _, raw in sentences),
    )


def _parse_sentence(record: Record, place: int, value: Any) -> tuple[str, str]:
    """(cleaned, as typed). Cleaning may leave nothing of a typed sentence; then what was typed stands in."""
    field = f"sentences[{place}]"
    if not isinstance(value, dict):
        raise record.error(field, f"must be a dictionary with sent and raw, got {type(value).__name__}")
    cleaned, typed = value.get("sent"), value.get("raw", value.get("sent"))
    if isinstance(cleaned, str) and isinstance(typed, str) and not cleaned.strip():
        cleaned = typed.lower()
    cleaned = checked_expression(cleaned, record=record, field=f"{field}.sent")
    if typed == "":
        typed = cleaned
    return cleaned, checked_expression(typed, record=record, field=f"{field}.raw")


def _check_joins(
    refs: tuple[Ref, ...],
    images: dict[int, ImageRecord],
    annotations: dict[int, Annotation],
    *,
    refs_file: Path,
) -> None:
    for ref in refs:
        where = f"ref {ref.ref_id} in {refs_file}"
        if ref.image_id not in images:
            raise DataError(f"{where}: no image {ref.image_id} in {INSTANCES}", field="image_id")
        if ref.annotation_id not in annotations:
            raise DataError(f"{where}: no annotation {ref.annotation_id} in {INSTANCES}", field="ann_id")
        if annotations[ref.annotation_id].image_id != ref.image_id:
            raise DataError(
                f"{where}: image {ref.image_id}, but its annotation {ref.annotation_id} belongs to image "
                f"{annotations[ref.annotation_id].image_id}",
                field="image_id",
            )


def _area(annotation: Annotation, dataset: Dataset) -> float:
    image = dataset.images[annotation.image_id]
    mask = rasterize(annotation, image.height, image.width, source=dataset.source)
    return float(mask.sum())


def _image_entry(image: ImageRecord) -> dict[str, Any]:
    return {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width}


def _annotation_entry(annotation: Annotation, area: float) -> dict[str, Any]:
    outline = annotation.segmentation
    polygons_or_rle = dict(outline) if isinstance(outline, Mapping) else [list(item) for item in outline]
    return {
        "id": annotation.id,
        "image_id": annotation.image_id,
        "category_id": annotation.category_id,
        "bbox": list(annotation.bbox),
        "area": area,
        "iscrowd": int(annotation.iscrowd),
        "segmentation": polygons_or_rle,
    }


def _ref_entries(dataset: Dataset) -> Iterator[dict[str, Any]]:
    sent_id = 0
    for ref in dataset.refs:
        sent_ids = list(range(sent_id, sent_id + len(ref.expressions)))
        sent_id += len(sent_ids)
        name = PurePosixPath(dataset.images[ref.image_id].file_name)
        yield {
            "sent_ids": sent_ids,
            "file_name": f"{name.stem}_{ref.annotation_id}{name.suffix}",
            "ann_id": ref.annotation_id,
            "ref_id": ref.ref_id,
            "image_id": ref.image_id,
            "split": ref.split,
            "category_id": dataset.annotations[ref.annotation_id].category_id,
            "sentences": [
                {"tokens": sent.split(), "raw": raw, "sent_id": key, "sent": sent}
                for key, sent, raw in zip(sent_ids, ref.expressions, ref.raw, strict=True)
            ],
        }
