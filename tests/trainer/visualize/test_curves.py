"""Training curves are drawn from whatever was logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semires_trainer.curves import smooth, write_training_curves

SIZE = (1210, 792)


def whole_run() -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for step in range(1, 41):
        stage = "burn-in" if step <= 20 else "train"
        records.append({"step": step, f"{stage}/loss": 1 / step, f"{stage}/learning_rate": 1e-4})
        if stage == "train":
            records[-1] |= {"train/sam": 0.2, "train/pwa": None, "train/matched_share": 0.5}
        if step % 10 == 0:
            records.append({"step": step, f"{stage}/val_oiou": float(step)})
    return records


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(whole_run(), id="whole-run"),
        pytest.param([{"step": 1, "burn-in/loss": 1.0}], id="one-value"),
        pytest.param([], id="nothing"),
        pytest.param([{"step": 3, "train/loss": None}], id="only-values-that-were-not-finite"),
    ],
)
def test_the_picture_has_its_size_whatever_was_logged(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    write_training_curves(records, tmp_path / "curves.png", title="job")

    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == SIZE


def test_the_same_records_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_training_curves(whole_run(), tmp_path / name)

    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_curves_are_drawn_in_the_colours_of_their_models(tmp_path: Path) -> None:
    write_training_curves(whole_run(), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))

    upper_right = pixels[: SIZE[1] // 2, SIZE[0] // 2 :].reshape(-1, 3)

    for color in ((0x56, 0xB4, 0xE9), (0xD5, 0x5E, 0x00)):
        assert (upper_right == color).all(axis=1).sum() > 20


def test_smoothing_is_the_mean_of_what_there_is_at_first() -> None:
    assert smooth([4.0, 4.0, 4.0], 0.9) == pytest.approx([4.0, 4.0, 4.0])
    assert smooth([0.0, 1.0], 0.5) == pytest.approx([0.0, 2 / 3])
