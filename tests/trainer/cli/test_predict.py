"""predict finds a mask at the picture's own size, and says what is wrong with its input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semires_trainer.predict import Prediction, Predictor


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def ask(semires, model_folder: Path, photo: Path, tmp_path: Path):
    def run(*more: object, image: Path = photo, text: str = "the red square", checkpoint: Path = model_folder):
        output = ("--output", tmp_path / "overlay.png")
        return semires("predict", "--checkpoint", checkpoint, "--image", image, "--text", text, *output, *more)

    return run


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def prediction(mask: list[list[bool]], probability: list[list[float]]) -> Prediction:
    return Prediction(
        text="x",
        mask_HW=np.array(mask),
        probability_HW=np.array(probability, dtype=np.float32),
        unread_words=False,
    )


def test_overlay_and_mask_have_the_size_of_the_picture(ask, tmp_path: Path) -> None:
    result = ask("--mask", tmp_path / "mask.png")

    assert result.exit_code == 0, result.output
    assert read(tmp_path / "overlay.png").shape == (50, 90, 3)
    assert set(np.unique(read(tmp_path / "mask.png"))) <= {False, True}
    assert read(tmp_path / "mask.png").shape == (50, 90)
    assert all(word in result.stdout for word in ("area", "confidence", "overlay"))


def test_figures_come_as_json_and_agree_with_the_mask(ask, tmp_path: Path) -> None:
    figures = json.loads(ask("--json", "--mask", tmp_path / "mask.png").stdout)

    area = int(read(tmp_path / "mask.png").astype(bool).sum())
    assert figures["areaPixels"] == area
    assert figures["areaPercent"] == pytest.approx(100 * area / 4500, abs=1e-3)
    assert (figures["width"], figures["height"], figures["unreadWords"]) == (90, 50, False)


def test_confidence_is_the_mean_probability_inside_the_mask() -> None:
    found = prediction([[True, True, False]], [[0.6, 0.8, 0.1]])

    assert found.confidence == pytest.approx(0.7)
    assert (found.area_pixels, found.area_share) == (2, pytest.approx(2 / 3))
    assert prediction([[False]], [[0.4]]).confidence == 0.0


def test_the_same_question_gives_the_same_answer(model_folder: Path, photo: Path) -> None:
    predictor, image = Predictor(model_folder), Image.fromarray(read(photo))

    first, second = predictor(image, "the square"), predictor(image, "  the   square ")

    assert (first.probability_HW == second.probability_HW).all()


def test_a_sentence_beyond_the_models_tokens_is_cut_with_a_warning(ask) -> None:
    result = ask(text="the large red square left of the small blue dotted circle")

    assert result.exit_code == 0
    assert "its end is ignored" in result.stderr


@pytest.mark.parametrize(
    ("text", "part"),
    [pytest.param("  ", "the sentence is empty", id="empty"), pytest.param("red " * 500, "500 words", id="500-words")],
)
def test_a_text_that_is_no_sentence_is_refused(ask, text: str, part: str, tmp_path: Path) -> None:
    result = ask(text=text)

    assert result.exit_code == 2
    assert part in result.stderr
    assert not (tmp_path / "overlay.png").exists()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        pytest.param(None, "No such file", id="missing"),
        pytest.param(b"hello", "is not an image", id="not-an-image"),
        pytest.param("truncated", "can't be decoded", id="truncated"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named(ask, photo: Path, tmp_path: Path, content: object, part: str) -> None:
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else photo.read_bytes()[:400])

    result = ask(image=path)

    assert result.exit_code == 3
    assert str(path) in result.stderr
    assert part in result.stderr


def test_a_folder_without_a_model_is_named(ask, tmp_path: Path) -> None:
    result = ask(checkpoint=tmp_path)

    assert result.exit_code == 3
    assert "model.json" in result.stderr


def test_a_gpu_that_is_not_there_is_not_replaced_silently(ask) -> None:
    code = ask("--device", "cuda:99").exit_code

    assert code == (150 if not torch.cuda.is_available() else 1)
