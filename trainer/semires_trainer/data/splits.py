"""Which images are labelled.

The draw is the official one, by image, so that published splits are reproduced exactly.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Protocol

from semires_trainer.data.records import Dataset, Ref
from semires_trainer.data.sampling import permutation
from semires_trainer.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

_FIELD = "spec.dataset.labeled"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabeledSplit:
    """The train refs, divided. Numbers are positions in `dataset.refs_of("train")`, ascending."""

    labeled_refs: tuple[int, ...]
    """Refs whose masks may be read."""
    unlabeled_refs: tuple[int, ...]
    """Refs of which only image and expressions are used; empty if all images are labelled."""
    image_ids: tuple[int, ...]
    """The labelled images, in the order drawn or given."""


class SplitSection(Protocol):
    """What is read of the resolved manifest's `dataset` section; one of the three ways to choose is set."""

    @property
    def labeled_percent(self) -> str | None: ...
    @property
    def labeled_seed(self) -> int: ...
    @property
    def labeled_image_ids(self) -> tuple[int, ...] | None: ...
    @property
    def labeled_image_ids_file(self) -> str | None: ...
    @property
    def unlabeled_limit(self) -> int | None: ...


def split_labeled(
    dataset: Dataset,
    *,
    percent: str | None = None,
    seed: int = 0,
    image_ids: Sequence[int] | None = None,
    image_ids_file: str | Path | None = None,
    unlabeled_limit: int | None = None,
) -> LabeledSplit:
    """Divide the train refs by exactly one of `percent` (such as "0.5"), `image_ids`, `image_ids_file`.

    `unlabeled_limit` keeps the refs of that many unlabelled images, the first of a seeded order: a smaller
    limit keeps a part of what a larger one keeps. Raises ConfigError for a percentage out of (0, 100] or no
    or several ways given, DataError for unknown images or an empty labelled part.
    """
    if sum(way is not None for way in (percent, image_ids, image_ids_file)) != 1:
        raise ConfigError("give exactly one of percent, imageIds, imageIdsFile", field=_FIELD)
    refs = dataset.refs_of("train")
    known = tuple(dict.fromkeys(ref.image_id for ref in refs))
    if percent is not None:
        chosen = draw_images(known, percent=percent, seed=seed)
    else:
        listed = list(image_ids) if image_ids is not None else read_image_ids(Path(image_ids_file or ""))
        field = f"{_FIELD}.imageIds" if image_ids is not None else f"{_FIELD}.imageIdsFile"
        chosen = _checked_images(listed, known, field=field)
    return _divide(refs, chosen, unlabeled_limit=unlabeled_limit, seed=seed)


def split_dataset(dataset: Dataset, section: SplitSection) -> LabeledSplit:
    """`split_labeled` as the manifest's data section says."""
    return split_labeled(
        dataset,
        percent=section.labeled_percent,
        seed=section.labeled_seed,
        image_ids=section.labeled_image_ids,
        image_ids_file=section.labeled_image_ids_file,
        unlabeled_limit=section.unlabeled_limit,
    )


def refs_in_use(dataset: Dataset, split: LabeledSplit, evaluate: Sequence[str]) -> list[Ref]:
    """Every ref whose image a run reads: labelled, unlabelled, and those of the splits it evaluates."""
    train = dataset.refs_of("train")
    trained = [train[number] for number in (*split.labeled_refs, *split.unlabeled_refs)]
    return trained + [ref for name in evaluate for ref in dataset.refs_of(name)]


def image_files(dataset: Dataset, refs: Sequence[Ref]) -> list[str]:
    """The image files of `refs`, each once, in order."""
    return list(dict.fromkeys(dataset.images[ref.image_id].file_name for ref in refs))


def draw_images(known: Sequence[int], *, percent: str, seed: int) -> tuple[int, ...]:
    """Draw floor(percent / 100 * n) images as the official script: random.sample, seeded, in drawn order.

    `known` holds the train images in order of first appearance among the refs. The count is exact decimal
    arithmetic.
    """
    count = int(parse_percent(percent) * len(known) / 100)
    if count == 0:
        raise DataError(
            f"{percent} % of {len(known)} train images are 0 labelled images",
            field=f"{_FIELD}.percent",
            remedy=f"Use at least {_least_percent(len(known))} %.",
        )
    return tuple(random.Random(seed).sample(list(known), count))


def parse_percent(text: str) -> Decimal:
    """An exact percentage; ConfigError unless 0 < percent <= 100."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or not 0 < value <= 100:
        raise ConfigError(
            f"must be more than 0 and at most 100, got {text!r}",
            field=f"{_FIELD}.percent",
            remedy='Write a decimal as text, for example "1" or "0.5".',
        )
    return value


def read_image_ids(path: Path) -> list[int]:
    """Image ids from a file: a JSON list, or integers separated by white space or commas."""
    field = f"{_FIELD}.imageIdsFile"
    try:
        text = path.read_text(encoding="utf-8")
        values: Any = json.loads(text) if text.lstrip().startswith("[") else re.split(r"[\s,]+", text.strip())
        return [_image_id(value) for value in values if value != ""]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", field=field, remedy="Give an existing file.") from error
    except ValueError as error:
        raise DataError(
            f"{path}: {error}", field=field, remedy="Write a JSON list of integers, or one id a line."
        ) from error


def _image_id(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is not an image id")
    return int(value)


def _checked_images(listed: Sequence[int], known: Sequence[int], *, field: str) -> tuple[int, ...]:
    """`listed` without repetitions; DataError if empty or if one is no train image."""
    chosen = tuple(dict.fromkeys(listed))
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise DataError(
            f"{len(unknown)} of {len(chosen)} are no images of the train split: {shown}",
            field=field,
            remedy="Use ids of images that have train refs.",
        )
    if not chosen:
        raise DataError("names 0 labelled images", field=field, remedy="Name at least one.")
    return chosen


def _divide(refs: Sequence[Ref], image_ids: tuple[int, ...], *, unlabeled_limit: int | None, seed: int) -> LabeledSplit:
    labelled_images = set(image_ids)
    labelled = tuple(place for place, ref in enumerate(refs) if ref.image_id in labelled_images)
    rest = [place for place, ref in enumerate(refs) if ref.image_id not in labelled_images]
    if not rest:
        logger.warning("All train images are labelled: mutual learning has no unlabelled image to learn from.")
    if unlabeled_limit is not None:
        kept = _first_images([refs[place].image_id for place in rest], limit=unlabeled_limit, seed=seed)
        rest = [place for place in rest if refs[place].image_id in kept]
    return LabeledSplit(labeled_refs=labelled, unlabeled_refs=tuple(rest), image_ids=image_ids)


def _first_images(image_ids: Sequence[int], *, limit: int, seed: int) -> set[int]:
    known = list(dict.fromkeys(image_ids))
    order = permutation(len(known), seed=seed, epoch=0, stream="unlabeled-limit")
    return {known[place] for place in order[:limit]}


def _least_percent(images: int) -> str:
    """The smallest percentage with at most 4 decimals that draws one image."""
    return f"{(Decimal(100) / images).quantize(Decimal('0.0001'), rounding='ROUND_CEILING').normalize():f}"
