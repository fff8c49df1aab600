"""The part of COCO's JSON that REFER and custom data sets share: images and annotations."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from semires_trainer.data.fields import Record, records_of, unique
from semires_trainer.data.masks import check_segmentation, outline_error
from semires_trainer.data.records import Annotation, ImageRecord, Polygons, Rle

MAX_SIDE = 65_500
"""Largest side a JPEG can have, in pixels."""


def parse_images(
    document: Mapping[str, Any], *, source: Path, keep: Collection[int] | None = None
) -> dict[int, ImageRecord]:
    """Images by id; with `keep`, only those. DataError for duplicates and wrong types."""
    records = records_of(document.get("images"), source=source, kind="image", id_field="id")
    keyed = ((record, record.integer("id")) for record in records)
    return unique(
        ((record, key, _parse_image(record, key)) for record, key in keyed if keep is None or key in keep),
        field="id",
    )


def parse_annotations(
    document: Mapping[str, Any],
    *,
    source: Path,
    images: Mapping[int, ImageRecord],
    keep: Collection[int] | None = None,
) -> dict[int, Annotation]:
    """Annotations by id; with `keep`, only those. Outlines are checked, not yet rasterised."""
    records = records_of(document.get("annotations"), source=source, kind="annotation", id_field="id")
    keyed = ((record, record.integer("id")) for record in records)
    return unique(
        ((record, key, _parse_annotation(record, key, images)) for record, key in keyed if keep is None or key in keep),
        field="id",
    )


def _parse_image(record: Record, key: int) -> ImageRecord:
    height, width = record.integer("height"), record.integer("width")
    for field, side in (("height", height), ("width", width)):
        if not 0 < side <= MAX_SIDE:
            raise record.error(field, f"must be 1 to {MAX_SIDE} pixels, got {side}")
    return ImageRecord(id=key, file_name=record.text("file_name"), height=height, width=width)


def _parse_annotation(record: Record, key: int, images: Mapping[int, ImageRecord]) -> Annotation:
    image_id = record.integer("image_id")
    if image_id not in images:
        raise record.error("image_id", f"there is no image {image_id}", remedy="Correct the id.")
    annotation = Annotation(
        id=key,
        image_id=image_id,
        category_id=record.integer("category_id"),
        bbox=_parse_box(record),
        segmentation=_parse_segmentation(record),
        iscrowd=bool(record.values.get("iscrowd", 0)),
    )
    image = images[image_id]
    try:
        check_segmentation(annotation.segmentation, image.height, image.width)
    except ValueError as error:
        raise outline_error(annotation, str(error), source=str(record.source)) from error
    return annotation


def _parse_box(record: Record) -> tuple[float, float, float, float]:
    """x, y, width, height; zeros when absent, since training reads only the outline."""
    if "bbox" not in record.values:
        return (0.0, 0.0, 0.0, 0.0)
    box = record.items("bbox")
    if len(box) != 4 or not all(_is_number(value) and math.isfinite(value) for value in box):
        raise record.error("bbox", "must be four finite numbers: x, y, width, height")
    x, y, width, height = (float(value) for value in box)
    return (x, y, width, height)


def _parse_segmentation(record: Record) -> Polygons | Rle:
    value = record.values.get("segmentation")
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and all(_is_polygon(polygon) for polygon in value):
        return value
    raise record.error(
        "segmentation",
        "must be polygons [[x, y, x, y, ...], ...] or an RLE object with size and counts",
        remedy="Draw the outline again or convert it to COCO's format.",
    )


def _is_polygon(value: Any) -> bool:
    return isinstance(value, list) and all(_is_number(number) for number in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
