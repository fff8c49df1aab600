"""Draw docs/images/photos.png: every photo with some of its objects outlined, and what they are called.

Run from anywhere: `python examples/photos/make_sheet.py [OUTPUT.png]`. The same data give the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from semires_trainer.data.custom import load_custom
from semires_trainer.data.images import ImageSource
from semires_trainer.data.masks import rasterize
from semires_trainer.data.records import Dataset, ImageRecord
from semires_trainer.visualize import GAP, INK, PAPER, PREDICTION, TRUTH, Mask, Picture, overlay, save_png

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parents[1] / "docs" / "images" / "photos.png"

ROWS: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "dog.jpg": ("the white bulldog with brown patches", "the one holding out the bowl", "the metal bowl"),
        "groceries.jpg": ("the leftmost paper bag", "the long loaf of bread", "the right headrest"),
        "astronaut.jpg": ("the woman's hair", "the space shuttle", "the flag"),
        "coffee.jpg": ("the brown espresso in the cup", "the shiny metal teaspoon", "the red plate under the cup"),
    },
    {
        "rocket.jpg": (
            "the rocket",
            "the second tower from the left",
            "the rightmost lattice tower",
        ),
        "truck.jpg": ("the wheel on the left", "the driver's window", "the wheel on the right"),
        "camera.jpg": ("the man in the dark coat", "the three-legged stand", "the tall tower"),
        "chelsea.jpg": ("the eye on the left", "the nose", "the pink ear"),
    },
)
"""By photo, the start of an expression of each object shown: what stands in annotations.json is the text."""

COLORS = (TRUTH, PREDICTION, (148, 82, 200))
PHOTO_HEIGHT = 224
TEXT_SIZE = 13
LINE_HEIGHT = 19
MAX_COLORS = 256
"""A dithered palette of this size takes a third of the bytes of true colours and looks almost the same."""


def draw_sheet(dataset: Dataset, source: ImageSource) -> Image.Image:
    """All rows below each other; photos of a row share a height."""
    by_name = {image.file_name: image for image in dataset.images.values()}
    rows = [[draw_photo(dataset, source, by_name[name], starts) for name, starts in row.items()] for row in ROWS]
    widths = [sum(photo.width + GAP for photo in row) + GAP for row in rows]
    heights = [max(photo.height for photo in row) + GAP for row in rows]
    sheet = Image.new("RGB", (max(widths), sum(heights) + GAP), PAPER)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        left = GAP
        for photo in row:
            sheet.paste(photo, (left, top))
            left += photo.width + GAP
        top += height
    return sheet


def draw_photo(dataset: Dataset, source: ImageSource, image: ImageRecord, starts: Sequence[str]) -> Image.Image:
    """The photo PHOTO_HEIGHT pixels high, its objects tinted, one line with a colour and a sentence for each."""
    size = (round(image.width * PHOTO_HEIGHT / image.height), PHOTO_HEIGHT)
    clean = np.asarray(source.open(image).resize(size, Image.Resampling.LANCZOS))
    painted = clean.copy()
    canvas = Image.new("RGB", (size[0], PHOTO_HEIGHT + 6 + LINE_HEIGHT * len(starts)), PAPER)
    draw = ImageDraw.Draw(canvas)
    for line, (start, color) in enumerate(zip(starts, COLORS, strict=True)):
        sentence, mask = find_object(dataset, image, start)
        small = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        _copy_inside(overlay(clean, small, color, alpha=0.45), small, into=painted)
        top = PHOTO_HEIGHT + 6 + LINE_HEIGHT * line
        draw.rectangle((0, top + 2, 10, top + 12), fill=color)
        draw.text((17, top), sentence, fill=INK, font=_font())
    canvas.paste(Image.fromarray(painted), (0, 0))
    return canvas


def find_object(dataset: Dataset, image: ImageRecord, start: str) -> tuple[str, Mask]:
    """The first expression of `image` that starts with `start`, and its (H, W) mask."""
    for ref in dataset.refs:
        for expression in ref.expressions:
            if ref.image_id == image.id and expression.startswith(start):
                outline = dataset.annotations[ref.annotation_id]
                return expression, rasterize(outline, image.height, image.width, source=dataset.source)
    raise LookupError(f"no expression of {image.file_name} starts with {start!r}")


def _copy_inside(tinted: Picture, mask: Mask, *, into: Picture) -> None:
    """Take over the mask and the white edge that `overlay` drew around it, not what it dimmed."""
    grown = np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(3))) > 0
    into[grown] = tinted[grown]


def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries with it: the same letters on every machine."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), TEXT_SIZE)


def main() -> None:
    """Write the sheet to the first argument, or into the documentation."""
    dataset = load_custom("Custom", HERE / "annotations.json")
    sheet = draw_sheet(dataset, ImageSource(HERE / "images"))
    palette = sheet.quantize(MAX_COLORS, method=Image.Quantize.MEDIANCUT)
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    output.parent.mkdir(parents=True, exist_ok=True)
    save_png(sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG), output)


if __name__ == "__main__":
    main()
