"""A data set of one's own: COCO JSON with `expressions` on annotations and `split` on images.

```json
{"images": [{"id": 1, "file_name": "beach.jpg", "height": 480, "width": 640, "split": "train"}],
 "annotations": [{"id": 7, "image_id": 1, "category_id": 3, "bbox": [10, 20, 100, 80],
                  "segmentation": [[10, 20, 110, 20, 60, 100]], "expressions": ["the dog on the left"]}],
 "categories": [{"id": 3, "name": "dog"}]}
```
`split` is `train` when it is left out; `bbox`, `category_id`, `iscrowd` and `categories` may be left out.
Every annotation is one ref and needs at least one expression. Images without annotations are not used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semires_trainer.data.coco import parse_annotations, parse_images
from semires_trainer.data.expressions import checked_expression
from semires_trainer.data.fields import Record, read_json, records_of
from semires_trainer.data.records import Annotation, Dataset, Ref
from semires_trainer.errors import DataError

_SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


def load_custom(name: str, annotations: Path) -> Dataset:
    """Read a custom data set from the JSON file `annotations`; DataError for what is wrong."""
    document = read_json(annotations, field="spec.dataset.annotations")
    if not isinstance(document, dict):
        raise DataError(
            f"{annotations} must hold an object with images and annotations, got {type(document).__name__}",
            field="spec.dataset.annotations",
            remedy="Write it as COCO JSON; docs/custom-data.md shows an example.",
        )
    document = _with_category_ids(document)
    images = parse_images(document, source=annotations)
    outlines = parse_annotations(document, source=annotations, images=images)
    splits = _parse_splits(document, annotations)
    categories = _parse_categories(document, annotations)
    records = records_of(document["annotations"], source=annotations, kind="annotation", id_field="id")
    refs = tuple(
        _parse_ref(record, outlines[record.integer("id")], splits=splits, categories=categories) for record in records
    )
    if not refs:
        raise DataError(f"{annotations} has no annotation", field="annotations", remedy="Outline an object.")
    return Dataset(name=name, source=str(annotations), images=images, annotations=outlines, refs=refs)


def _with_category_ids(document: Mapping[str, Any]) -> dict[str, Any]:
    """Category 0 for annotations that name none: the method never reads categories."""
    annotations = document.get("annotations")
    if not isinstance(annotations, list):
        return dict(document)
    filled = [{"category_id": 0, **item} if isinstance(item, dict) else item for item in annotations]
    return {**document, "annotations": filled}


def _parse_splits(document: Mapping[str, Any], source: Path) -> dict[int, str]:
    records = records_of(document["images"], source=source, kind="image", id_field="id")
    return {record.integer("id"): _parse_split(record) for record in records}


def _parse_split(record: Record) -> str:
    split = record.values.get("split", "train")
    if not isinstance(split, str) or not _SPLIT_NAME.fullmatch(split):
        raise record.error(
            "split",
            f"{split!r} is not the name of a split",
            remedy="Use train, val or test; left out, it is train.",
        )
    return split


def _parse_categories(document: Mapping[str, Any], source: Path) -> dict[int, str]:
    records = records_of(document.get("categories", []), source=source, kind="category", id_field="id")
    return {record.integer("id"): record.text("name") for record in records}


def _parse_ref(
    record: Record, annotation: Annotation, *, splits: Mapping[int, str], categories: Mapping[int, str]
) -> Ref:
    if "expressions" not in record.values or not record.items("expressions"):
        raise record.error("expressions", "has no expression", remedy='Add one: "expressions": ["the red cup"].')
    expressions = tuple(
        checked_expression(value, record=record, field=f"expressions[{place}]")
        for place, value in enumerate(record.items("expressions"))
    )
    return Ref(
        ref_id=annotation.id,
        annotation_id=annotation.id,
        image_id=annotation.image_id,
        split=splits[annotation.image_id],
        category=categories.get(annotation.category_id, "object"),
        expressions=expressions,
        raw=expressions,
    )
