"""The synthetic benchmark: textured, overlapping objects and relational expressions, in REFER's own format.

Every picture is a function of (seed, split, index), so a benchmark is the same bytes wherever it is written with
the same versions of NumPy and Pillow, and a larger one begins with the pictures of the smaller.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from semires_trainer.atomic import write_json, write_text
from semires_trainer.data.masks import encode_rle
from semires_trainer.data.records import Annotation, Dataset, ImageRecord, Ref
from semires_trainer.data.refer import write_refer
from semires_trainer.data.synthetic_scene import Scene, Thing, compose, render
from semires_trainer.data.synthetic_text import (
    CORNERED_SHAPES,
    CURVED_SHAPES,
    SHAPES,
    Expression,
    candidate_expressions,
    vocabulary,
)
from semires_trainer.errors import ConfigError, DataError

_logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Counts changes of the generator: a folder of another version is not taken for the same data."""

SPLITS = {"train": SHAPES, "val": SHAPES, "testA": CURVED_SHAPES, "testB": CORNERED_SHAPES}
"""Shapes that may be referred to. As in RefCOCO, testA and testB ask for different kinds of objects."""

KIND_WEIGHTS = {"attribute": 0.65, "place": 0.08, "size": 0.08, "relation": 0.14, "size-relation": 0.05}
COLOUR_WEIGHT = 8
"""People name the colour first: how much likelier an expression is that names its object's colour."""
EXPRESSIONS_PER_REF = (2, 3)
JPEG_QUALITY = 90
STAMP = "synthetic.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """What decides the benchmark's bytes."""

    images: int = 1000
    """Training images."""
    evaluation_images: int = 100
    """Images in each of val, testA and testB."""
    refs_per_image: int = 3
    """Objects referred to in an image, at most; the other objects are distractors."""
    size: int = 128
    """Side of an image in pixels."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"images": 1, "evaluation_images": 1, "refs_per_image": 1, "size": 64, "seed": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value < minimum:
                raise ConfigError(f"got {value}, must be at least {minimum}", field=name.replace("_", "-"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One picture with the objects that are referred to: (index of the thing, its expressions)."""

    scene: Scene
    jpeg: bytes
    targets: tuple[tuple[int, tuple[Expression, ...]], ...]


def make_example(config: SyntheticConfig, split: str, index: int) -> Example:
    """Picture `index` of a split. Scenes in which nothing can be referred to are passed over."""
    attempt = 0
    while True:
        rng = np.random.default_rng([config.seed, list(SPLITS).index(split), index, attempt])
        scene = compose(rng, config.size)
        targets = _choose_targets(rng, scene, SPLITS[split], config.refs_per_image)
        if targets:
            return Example(scene=scene, jpeg=_encode_jpeg(render(scene, rng)), targets=targets)
        attempt += 1


def write_synthetic(
    folder: Path, config: SyntheticConfig, *, progress: Callable[[int, int], None] | None = None
) -> bool:
    """Write `refs(unc).p`, `instances.json`, `images/` and `vocab.txt` into `folder`, whole or not at all.

    Returns False if the folder holds the same benchmark already; any other content is a DataError.
    `progress` is called with (images done, images in all).
    """
    stamp = {"formatVersion": FORMAT_VERSION, **asdict(config)}
    if _is_there(folder, stamp):
        _logger.info("The synthetic benchmark in %s is there already.", folder)
        return False
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        _write_into(temporary, config, progress or (lambda done, total: None))
        write_json(temporary / STAMP, stamp)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return True


def _is_there(folder: Path, stamp: dict[str, int]) -> bool:
    """True if `folder` holds exactly this benchmark, False if it is absent or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    found = folder / STAMP
    if found.is_file() and json.loads(found.read_text(encoding="utf-8")) == stamp:
        return True
    raise DataError(
        f"{folder} exists and holds something else than this benchmark",
        remedy="Name a new folder, or remove this one.",
    )


def _write_into(folder: Path, config: SyntheticConfig, progress: Callable[[int, int], None]) -> None:
    images: dict[int, ImageRecord] = {}
    annotations: dict[int, Annotation] = {}
    refs: list[Ref] = []
    (folder / "images").mkdir(parents=True)
    total = config.images + (len(SPLITS) - 1) * config.evaluation_images
    for split, index in _addresses(config):
        example = make_example(config, split, index)
        image = ImageRecord(
            id=len(images) + 1, file_name=f"{split}_{index:06d}.jpg", height=config.size, width=config.size
        )
        images[image.id] = image
        (folder / "images" / image.file_name).write_bytes(example.jpeg)
        for thing_index, expressions in example.targets:
            ref_id = len(refs) + 1
            thing = example.scene.things[thing_index]
            annotations[ref_id] = _annotation(thing, ref_id, image.id)
            refs.append(_ref(thing, expressions, ref_id=ref_id, image_id=image.id, split=split))
        progress(len(images), total)
    dataset = Dataset(name="RefCOCO", images=images, annotations=annotations, refs=tuple(refs))
    write_refer(dataset, folder)
    write_text(folder / "vocab.txt", "".join(f"{token}\n" for token in vocabulary()))


def _addresses(config: SyntheticConfig) -> Iterator[tuple[str, int]]:
    for split in SPLITS:
        for index in range(config.images if split == "train" else config.evaluation_images):
            yield split, index


def _annotation(thing: Thing, annotation_id: int, image_id: int) -> Annotation:
    ys, xs = np.nonzero(thing.mask_HW)
    left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return Annotation(
        id=annotation_id,
        image_id=image_id,
        category_id=SHAPES.index(thing.shape) + 1,
        bbox=(float(left), float(top), float(right - left), float(bottom - top)),
        segmentation=encode_rle(thing.mask_HW),
        iscrowd=False,
    )


def _ref(thing: Thing, expressions: tuple[Expression, ...], *, ref_id: int, image_id: int, split: str) -> Ref:
    sentences = tuple(expression.text for expression in expressions)
    return Ref(
        ref_id=ref_id,
        annotation_id=ref_id,
        image_id=image_id,
        split=split,
        category=thing.shape,
        expressions=sentences,
        raw=sentences,
    )


def _choose_targets(
    rng: np.random.Generator, scene: Scene, shapes: tuple[str, ...], limit: int
) -> tuple[tuple[int, tuple[Expression, ...]], ...]:
    """Up to `limit` things of the given shapes, in random order, each with its expressions."""
    order = [int(i) for i in rng.permutation(len(scene.things)) if scene.things[i].shape in shapes]
    chosen = ((i, _choose_expressions(rng, candidate_expressions(scene.things, i))) for i in order[:limit])
    return tuple((i, expressions) for i, expressions in chosen if len(expressions) >= EXPRESSIONS_PER_REF[0])


def _choose_expressions(rng: np.random.Generator, candidates: list[Expression]) -> tuple[Expression, ...]:
    """2 or 3 different expressions; the kind is drawn first, so that rare kinds are heard as well."""
    wanted = int(rng.integers(EXPRESSIONS_PER_REF[0], EXPRESSIONS_PER_REF[1] + 1))
    left = list(candidates)
    chosen: list[Expression] = []
    while left and len(chosen) < wanted:
        kinds = sorted({expression.kind for expression in left})
        weights = np.array([KIND_WEIGHTS[kind] for kind in kinds])
        kind = str(rng.choice(kinds, p=weights / weights.sum()))
        of_kind = [expression for expression in left if expression.kind == kind]
        preference = np.array([COLOUR_WEIGHT if expression.target.colour else 1 for expression in of_kind])
        expression = of_kind[int(rng.choice(len(of_kind), p=preference / preference.sum()))]
        chosen.append(expression)
        left.remove(expression)
    return tuple(chosen)


def _encode_jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
