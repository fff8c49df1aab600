"""What is in a dataset: counts, problems of its files, pictures of its examples."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from semires_trainer.data.images import ImageSource
from semires_trainer.data.masks import rasterize
from semires_trainer.data.records import Dataset, Ref
from semires_trainer.errors import DataError
from semires_trainer.visualize import Tile, contact_sheet, panel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Size of a part of a dataset."""

    images: int
    refs: int
    """Objects that are referred to."""
    expressions: int

    @classmethod
    def of(cls, refs: Sequence[Ref]) -> Counts:
        """Counts of these refs."""
        return cls(
            images=len({ref.image_id for ref in refs}),
            refs=len(refs),
            expressions=sum(len(ref.expressions) for ref in refs),
        )


def count_splits(dataset: Dataset) -> dict[str, Counts]:
    """Counts per split, in order of first appearance."""
    return {name: Counts.of(dataset.refs_of(name)) for name in dataset.splits}


def find_problems(dataset: Dataset, images: ImageSource) -> Iterator[str | None]:
    """Read every picture and draw every mask that a ref needs; yields one line per picture with a problem,
    else None.

    A picture that cannot be read hides the problems of its masks.
    """
    refs_of_image: dict[int, list[Ref]] = {}
    for ref in dataset.refs:
        refs_of_image.setdefault(ref.image_id, []).append(ref)
    for image_id, refs in refs_of_image.items():
        yield _problem_of(dataset, images, image_id, refs)


def _problem_of(dataset: Dataset, images: ImageSource, image_id: int, refs: Sequence[Ref]) -> str | None:
    try:
        picture = images.open(dataset.images[image_id])
        for ref in refs:
            annotation = dataset.annotations[ref.annotation_id]
            rasterize(annotation, picture.height, picture.width, source=dataset.source)
    except DataError as error:
        return str(error)
    return None


def draw_examples(
    dataset: Dataset,
    images: ImageSource,
    *,
    split: str,
    count: int,
    seed: int = 0,
    choose: Callable[[Sequence[Ref]], Sequence[Ref]] | None = None,
) -> Image.Image:
    """A sheet of `count` refs of a split drawn at random: picture, ground truth, all expressions above.

    `choose` replaces the draw. Raises DataError for a split without refs and for files that cannot be read.
    """
    refs = dataset.refs_of(split)
    chosen = choose(refs) if choose else random.Random(seed).sample(refs, min(count, len(refs)))
    return contact_sheet([_draw_example(dataset, images, ref) for ref in chosen], columns=2)


def _draw_example(dataset: Dataset, images: ImageSource, ref: Ref) -> Image.Image:
    picture = images.open(dataset.images[ref.image_id])
    annotation = dataset.annotations[ref.annotation_id]
    mask_HW = rasterize(annotation, picture.height, picture.width, source=dataset.source).astype(bool)
    tiles = [Tile(caption=f"image {ref.image_id}"), Tile(caption=ref.category, mask_HW=mask_HW)]
    return panel(np.asarray(picture), " / ".join(ref.expressions), tiles)
