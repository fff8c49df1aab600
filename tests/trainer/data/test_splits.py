"""The labelled part is the official draw, or the images the user names."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from semires_trainer.data.records import Dataset, Ref
from semires_trainer.data.splits import draw_images, split_labeled
from semires_trainer.errors import ConfigError, DataError

from .conftest import DATA

VECTORS = json.loads((DATA / "vectors/split/split.json").read_text())
RELEASED = json.loads((DATA / "vectors/split/refcoco_1pct_check.json").read_text())


def dataset_of(image_ids: list[int]) -> Dataset:
    refs = tuple(
        Ref(
            ref_id=place,
            annotation_id=place,
            image_id=image_id,
            split="train",
            category="x",
            expressions=("x",),
            raw=("x",),
        )
        for place, image_id in enumerate(image_ids)
    )
    return Dataset(name="RefCOCO", images={}, annotations={}, refs=refs)


@pytest.mark.parametrize("percent", ["0.5", "1", "2", "5", "10"])
def test_the_draw_equals_the_official_one(percent: str) -> None:
    dataset = dataset_of(VECTORS["image_id_of_ref"])
    expected = VECTORS["expected"][percent]

    split = split_labeled(dataset, percent=percent)

    assert list(split.image_ids) == expected["labelled_image_ids_in_sampled_order"]
    assert list(split.labeled_refs) == expected["labelled_ref_indices"]
    assert sorted(split.labeled_refs + split.unlabeled_refs) == list(range(VECTORS["refs"]))


def test_the_draw_of_the_released_refcoco_file_is_reproduced() -> None:
    positions = draw_images(range(RELEASED["train_images_in_full"]), percent="1", seed=0)

    assert list(positions) == RELEASED["drawn_positions_in_sampled_order"]


def test_the_number_of_images_is_exact_decimal_arithmetic() -> None:
    assert 0.29 * 100 < 29
    assert len(draw_images(range(100), percent="29", seed=0)) == 29
    assert len(draw_images(range(1000), percent="0.3", seed=0)) == 3


def test_another_seed_draws_other_images() -> None:
    assert draw_images(range(1000), percent="5", seed=1) != draw_images(range(1000), percent="5", seed=0)


@pytest.mark.parametrize("content", ["[8, 5]", "8\n5\n", "8, 5", "8 5 8"])
def test_images_can_be_named_in_a_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text(content)

    split = split_labeled(dataset_of([5, 6, 7, 8, 5]), image_ids_file=tmp_path / "ids.txt")

    assert split.image_ids == (8, 5)
    assert split.labeled_refs == (0, 3, 4)
    assert split.unlabeled_refs == (1, 2)


def test_a_limit_keeps_all_refs_of_so_many_images_and_grows_by_nesting() -> None:
    dataset = dataset_of([number // 2 for number in range(60)])

    kept = [set(split_labeled(dataset, image_ids=[0], unlabeled_limit=limit).unlabeled_refs) for limit in (3, 10, 99)]

    assert [len(refs) for refs in kept] == [6, 20, 58]
    assert kept[0] < kept[1] < kept[2]


def test_all_images_labelled_is_allowed_but_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        split = split_labeled(dataset_of([1, 2]), percent="100")

    assert split.unlabeled_refs == ()
    assert "no unlabelled image" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        pytest.param(
            {"percent": "0.1"}, DataError, r"percent: 0\.1 % of 4 train images are 0 labelled.*25 %", id="none"
        ),
        pytest.param({"percent": "150"}, ConfigError, "at most 100, got '150'", id="over-100"),
        pytest.param({"percent": "0"}, ConfigError, "more than 0", id="zero"),
        pytest.param({"percent": "nan"}, ConfigError, "more than 0", id="nan"),
        pytest.param({"percent": "few"}, ConfigError, "got 'few'", id="no-number"),
        pytest.param({"image_ids": [5, 99]}, DataError, "imageIds: 1 of 2 are no images .* 99", id="unknown-image"),
        pytest.param({"image_ids": []}, DataError, "0 labelled images", id="empty-list"),
        pytest.param({}, ConfigError, "exactly one of", id="no-way"),
        pytest.param({"percent": "1", "image_ids": [5]}, ConfigError, "exactly one of", id="two-ways"),
        pytest.param({"image_ids_file": "absent.txt"}, DataError, "imageIdsFile: absent.txt: No such", id="no-file"),
    ],
)
def test_a_bad_choice_names_field_and_remedy(arguments: dict[str, Any], error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=rf"spec\.dataset\.labeled.*{problem}"):
        split_labeled(dataset_of([5, 6, 7, 8]), **arguments)


@pytest.mark.parametrize("content", ["[1, 2", '["a"]', "[1.5]", "[true]", "seven"])
def test_a_file_of_something_else_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text(content)

    with pytest.raises(DataError, match=r"ids\.txt: .*Write a JSON list"):
        split_labeled(dataset_of([1]), image_ids_file=tmp_path / "ids.txt")
