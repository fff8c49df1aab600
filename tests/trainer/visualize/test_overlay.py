"""Masks over pictures: right pixels, right sizes, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semires_trainer.visualize import (
    GAP,
    PREDICTION,
    PSEUDO,
    REFINED,
    TILE_WIDTH,
    TRUTH,
    Mask,
    Picture,
    Tile,
    contact_sheet,
    draw_tile,
    example_tiles,
    mask_iou,
    overlay,
    panel,
    save_png,
)


@pytest.fixture
def picture() -> Picture:
    return np.full((64, 96, 3), 100, np.uint8)


@pytest.fixture
def square() -> Mask:
    mask = np.zeros((64, 96), dtype=np.bool_)
    mask[16:48, 32:64] = True
    return mask


def test_inside_is_tinted_outside_is_dimmed_and_the_outline_is_drawn(picture: Picture, square: Mask) -> None:
    shown = overlay(picture, square, PREDICTION)

    assert shown[32, 48].tolist() == [round((100 + channel) / 2) for channel in PREDICTION]
    assert shown[2, 2].tolist() == [90, 90, 90]
    assert tuple(shown[16, 48]) == PREDICTION
    assert shown[15, 48].tolist() == [255, 255, 255]


def test_the_picture_itself_is_left_alone(picture: Picture, square: Mask) -> None:
    before = picture.copy()
    overlay(picture, square, TRUTH)

    assert (picture == before).all()


@pytest.mark.parametrize("value", [pytest.param(False, id="empty"), pytest.param(True, id="full")])
def test_empty_and_full_masks_can_be_drawn(picture: Picture, value: bool) -> None:
    shown = overlay(picture, np.full((64, 96), value), TRUTH)

    assert shown.shape == picture.shape
    assert shown.dtype == np.uint8


def test_iou_of_two_masks() -> None:
    first = np.array([[True, True, False]])
    second = np.array([[False, True, True]])

    assert mask_iou(first, second) == pytest.approx(1 / 3)
    assert mask_iou(first & False, second & False) == 0.0


def test_a_tile_keeps_the_aspect_ratio_and_has_a_caption(picture: Picture, square: Mask) -> None:
    tile = draw_tile(picture, Tile(caption="refined", color=REFINED, mask_HW=square, iou=0.5))

    assert tile.width == TILE_WIDTH
    assert tile.height > TILE_WIDTH * 64 / 96
    assert tile.getpixel((5, tile.height - 13)) == REFINED


def test_a_row_is_as_wide_as_its_tiles(picture: Picture, square: Mask) -> None:
    tiles = example_tiles(square, pseudo_HW=square, refined_HW=square, prediction_HW=square)

    row = panel(picture, "the square", tiles)

    assert row.width == 5 * TILE_WIDTH + 4 * GAP


def test_a_long_sentence_wraps_instead_of_being_cut(picture: Picture, square: Mask) -> None:
    tiles = example_tiles(square)

    short, long = panel(picture, "the square", tiles), panel(picture, "the square " * 20, tiles)

    assert long.height > short.height + 60
    right_edge = np.asarray(long)[:60, -1]
    assert (right_edge == 255).all()


def test_masks_keep_their_colours_and_an_absent_mask_has_no_tile(square: Mask) -> None:
    tiles = example_tiles(square, pseudo_HW=square, prediction_HW=~square)

    assert [tile.caption for tile in tiles] == ["picture", "ground truth", "pseudo-label", "prediction"]
    assert [tile.color for tile in tiles[1:]] == [TRUTH, PSEUDO, PREDICTION]
    assert [tile.iou for tile in tiles] == [None, None, 1.0, 0.0]


@pytest.mark.parametrize(
    ("columns", "size"),
    [
        pytest.param(1, (10 + 32, 3 * 20 + 4 * 16), id="one-column"),
        pytest.param(2, (20 + 48, 2 * 20 + 3 * 16), id="two"),
    ],
)
def test_a_contact_sheet_puts_pictures_in_rows(columns: int, size: tuple[int, int]) -> None:
    cells = [Image.new("RGB", (10, 20), "black")] * 3

    assert contact_sheet(cells, columns=columns).size == size


def test_the_same_picture_gives_the_same_file(tmp_path: Path, picture: Picture, square: Mask) -> None:
    for name in ("a.png", "b.png"):
        save_png(panel(picture, "the square", example_tiles(square)), tmp_path / name)

    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
