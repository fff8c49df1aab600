"""Pictures for people: masks laid over images, rows that compare a sentence's masks, contact sheets. Pure;
PNG bytes repeat.

Arrays: image_HWC uint8 RGB, mask_HW boolean. Colours are from Okabe and Ito's palette, told apart by colour-
blind readers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from semires_trainer import atomic

Color = tuple[int, int, int]
Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

TRUTH: Color = (0, 158, 115)
PSEUDO: Color = (230, 159, 0)
REFINED: Color = (86, 180, 233)
PREDICTION: Color = (213, 94, 0)
INK: Color = (36, 41, 47)
MUTED: Color = (101, 109, 118)
PAPER: Color = (255, 255, 255)

TILE_WIDTH = 240
GAP = 8
TEXT_SIZE = 15
TITLE_SIZE = 18


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture of a row: the image with a mask over it, or the bare image."""

    caption: str
    color: Color = TRUTH
    mask_HW: Mask | None = None
    iou: float | None = None
    """Shown under the tile in percent, None shows no figure."""


def mask_iou(mask_HW: Mask, truth_HW: Mask) -> float:
    """IoU of two boolean masks of one shape; 0 where both are empty (algorithm.md 1.7)."""
    union = int(np.count_nonzero(mask_HW | truth_HW))
    return int(np.count_nonzero(mask_HW & truth_HW)) / union if union else 0.0


def overlay(image_HWC: Picture, mask_HW: Mask, color: Color, *, alpha: float = 0.5) -> Picture:
    """Tint the mask, draw its outline in full colour on a white edge, and dim what is outside a little."""
    image = image_HWC.astype(np.float32)
    inside = mask_HW[:, :, None]
    dimmed = image * 0.75 + 255 * 0.06
    tinted = image * (1 - alpha) + np.asarray(color, np.float32) * alpha
    mixed = np.where(inside, tinted, dimmed)
    width = max(1, round(min(mask_HW.shape) / 160))
    halo = _grow(mask_HW, width) & ~mask_HW
    line = mask_HW & _grow(~mask_HW, width)
    mixed[halo] = 255
    mixed[line] = color
    result: Picture = mixed.round().clip(0, 255).astype(np.uint8)
    return result


def _grow(mask_HW: Mask, radius: int) -> Mask:
    """Dilate by `radius` pixels with a cross, one pixel at a time; outside the picture counts as unset."""
    grown = mask_HW.copy()
    for _ in range(radius):
        step = grown.copy()
        step[1:] |= grown[:-1]
        step[:-1] |= grown[1:]
        step[:, 1:] |= grown[:, :-1]
        step[:, :-1] |= grown[:, 1:]
        grown = step
    return grown


@functools.cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries with it: the same letters on every machine."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def _resize(image_HWC: Picture, width: int) -> Picture:
    height = max(1, round(image_HWC.shape[0] * width / image_HWC.shape[1]))
    resized = Image.fromarray(image_HWC).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def _resize_mask(mask_HW: Mask, shape: tuple[int, int]) -> Mask:
    resized = Image.fromarray(mask_HW).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(resized, dtype=bool)


def draw_tile(image_HWC: Picture, tile: Tile, *, width: int = TILE_WIDTH) -> Image.Image:
    """The image `width` pixels wide with the tile's mask over it, and its caption and figure below."""
    small = _resize(image_HWC, width)
    if tile.mask_HW is not None:
        small = overlay(small, _resize_mask(tile.mask_HW, small.shape[:2]), tile.color)
    canvas = Image.new("RGB", (width, small.shape[0] + TEXT_SIZE + 11), PAPER)
    canvas.paste(Image.fromarray(small), (0, 0))
    _write_caption(ImageDraw.Draw(canvas), tile, top=small.shape[0] + 5, width=width)
    return canvas


def _write_caption(draw: ImageDraw.ImageDraw, tile: Tile, *, top: int, width: int) -> None:
    left = 0
    if tile.mask_HW is not None:
        draw.rectangle((0, top + 3, 10, top + 13), fill=tile.color)
        left = 17
    draw.text((left, top), tile.caption, fill=INK, font=_font(TEXT_SIZE))
    if tile.iou is not None:
        figure = f"IoU {100 * tile.iou:.1f}"
        draw.text((width, top), figure, fill=MUTED, font=_font(TEXT_SIZE), anchor="ra")


def panel(image_HWC: Picture, sentence: str, tiles: Sequence[Tile], *, width: int = TILE_WIDTH) -> Image.Image:
    """One row: the sentence above, its tiles side by side. Size: len(tiles) * width + gaps."""
    drawn = [draw_tile(image_HWC, tile, width=width) for tile in tiles]
    total = len(drawn) * width + (len(drawn) - 1) * GAP
    lines = _wrap(f"“{' '.join(sentence.split())}”", total)
    line_height = TITLE_SIZE + 6
    top = len(lines) * line_height + 6
    canvas = Image.new("RGB", (total, top + drawn[0].height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, line in enumerate(lines):
        draw.text((0, index * line_height + 2), line, fill=INK, font=_font(TITLE_SIZE, bold=True))
    for index, picture in enumerate(drawn):
        canvas.paste(picture, (index * (width + GAP), top))
    return canvas


def _wrap(text: str, width: int) -> list[str]:
    """Break `text` at spaces into title lines at most `width` pixels wide; a longer word stands alone."""
    font = _font(TITLE_SIZE, bold=True)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def example_tiles(
    truth_HW: Mask,
    *,
    pseudo_HW: Mask | None = None,
    refined_HW: Mask | None = None,
    prediction_HW: Mask | None = None,
) -> list[Tile]:
    """Tiles of one expression in the project's order and colours; a mask that does not exist has no tile."""
    masks = [
        ("pseudo-label", PSEUDO, pseudo_HW),
        ("refined", REFINED, refined_HW),
        ("prediction", PREDICTION, prediction_HW),
    ]
    tiles = [Tile(caption="picture"), Tile(caption="ground truth", color=TRUTH, mask_HW=truth_HW)]
    for caption, color, mask_HW in masks:
        if mask_HW is not None:
            iou = mask_iou(mask_HW, truth_HW)
            tiles.append(Tile(caption=caption, color=color, mask_HW=mask_HW, iou=iou))
    return tiles


def contact_sheet(pictures: Sequence[Image.Image], *, columns: int = 1, gap: int = 2 * GAP) -> Image.Image:
    """Pictures in rows of `columns`, left to right, on white with a margin; cells take the largest width of
    all.
    """
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    cell = max(picture.width for picture in pictures)
    heights = [max(picture.height for picture in row) for row in rows]
    columns_used = min(columns, len(pictures))
    size = (columns_used * (cell + gap) + gap, sum(heights) + gap * (len(rows) + 1))
    canvas = Image.new("RGB", size, PAPER)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for index, picture in enumerate(row):
            canvas.paste(picture, (gap + index * (cell + gap), top))
        top += height + gap
    return canvas


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically, without dates or other text: the same picture gives the same bytes."""
    with atomic.replace_file(path) as temporary:
        image.save(temporary, format="PNG")  # optimize=True saves 4 % of the bytes for six times the time
