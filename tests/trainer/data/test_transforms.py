"""Views are the official ones up to rounding, and functions of the generator alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from semires_trainer.data.sampling import sample_generator
from semires_trainer.data.transforms import (
    MEAN,
    STD,
    Augmentation,
    Jitter,
    apply_jitter,
    blur,
    draw_jitter,
    normalize,
    resize_image,
    shift_hue,
    strong_view,
    to_tensor,
    weak_view,
)

ALWAYS = Augmentation(blur_probability=1.0, jitter_probability=1.0)
NEVER = Augmentation(blur_probability=0.0, jitter_probability=0.0)


def noise(height: int = 61, width: int = 83, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_blur_is_pillows_up_to_rounding_borders_included(seed: int) -> None:
    pixels = noise(seed=seed)
    reference = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)))

    difference = blur(pixels).astype(int) - reference

    assert np.abs(difference).max() <= 2
    assert np.abs(difference).mean() < 0.5
    assert abs(difference.mean()) < 0.3


def test_resizing_is_torchvisions() -> None:
    picture = Image.fromarray(noise())

    expected = F.resize(picture, [48, 48], interpolation=v2.InterpolationMode.BILINEAR)

    assert np.array_equal(resize_image(picture, 48), np.asarray(expected))


@pytest.mark.parametrize("shift", [-0.25, -0.1, 0.0, 0.013, 0.25])
def test_hue_is_torchvisions(shift: float) -> None:
    image = to_tensor(noise()).float() / 255
    image[:, :5] = image[:1, :5]  # greys have no hue

    torch.testing.assert_close(shift_hue(image, shift), F.adjust_hue(image, shift), atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", list(itertools.permutations(["brightness", "contrast", "saturation", "hue"]))[::5])
def test_jitter_is_torchvisions_float_jitter_up_to_one_level(order: tuple[str, ...]) -> None:
    image = to_tensor(noise())
    factors = {"brightness": 1.2, "contrast": 0.8, "saturation": 1.25, "hue": -0.2}
    reference = image.float() / 255
    for name in order:
        reference = getattr(F, f"adjust_{name}")(reference, factors[name])

    result = apply_jitter(image, Jitter(tuple((name, factors[name]) for name in order)))

    assert (result.float() - reference * 255).abs().max() <= 0.51


def test_factors_and_orders_are_drawn_from_the_whole_range() -> None:
    drawn = [draw_jitter(Augmentation(), sample_generator(0, 0, index, "x")) for index in range(600)]
    jitters = [jitter for jitter in drawn if jitter is not None]
    factors = {name: [dict(jitter.operations)[name] for jitter in jitters] for name in ("brightness", "hue")}

    assert 250 < len(jitters) < 350
    assert len({tuple(name for name, _ in jitter.operations) for jitter in jitters}) == 24
    assert 0.75 <= min(factors["brightness"]) < 0.77
    assert 1.23 < max(factors["brightness"]) <= 1.25
    assert -0.25 <= min(factors["hue"]) < -0.23
    assert 0.23 < max(factors["hue"]) <= 0.25


def test_views_are_functions_of_the_generator() -> None:
    pixels = noise()
    views = []
    for _ in range(2):
        generator = sample_generator(3, 1, 4, "unlabeled")
        weak = to_tensor(weak_view(pixels, ALWAYS, generator))
        views.append((weak, strong_view(weak, ALWAYS, generator)))

    assert torch.equal(views[0][0], views[1][0])
    assert torch.equal(views[0][1], views[1][1])
    assert not torch.equal(views[0][0], views[0][1])


def test_without_augmentation_both_views_are_the_picture() -> None:
    pixels = noise()
    generator = sample_generator(0, 0, 0, "x")
    weak = to_tensor(weak_view(pixels, NEVER, generator))

    assert torch.equal(weak, to_tensor(pixels))
    assert torch.equal(strong_view(weak, NEVER, generator), weak)


def test_what_one_sample_draws_does_not_depend_on_what_is_switched_on() -> None:
    generators = [sample_generator(0, 0, 0, "x") for _ in range(2)]
    for augmentation, generator in zip((ALWAYS, NEVER), generators, strict=True):
        weak = to_tensor(weak_view(noise(), augmentation, generator))
        strong_view(weak, augmentation, generator)

    assert generators[0].random() == generators[1].random()


def test_normalize_is_torchvisions_and_leaves_final_views_alone() -> None:
    image = to_tensor(noise())
    expected = F.normalize(image.float() / 255, list(MEAN), list(STD))

    assert torch.equal(normalize(image), expected)
    assert normalize(expected) is expected
    assert torch.equal(normalize(torch.stack([image, image]))[1], expected)


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("jittered", [True, False])
def test_twice_reproduces_the_official_double_normalisation(jittered: bool, index: int) -> None:
    twice = Augmentation(strong_normalization="Twice", jitter_probability=float(jittered))
    weak = to_tensor(noise())
    once = F.normalize(weak.float() / 255, list(MEAN), list(STD))
    jitter = draw_jitter(twice, sample_generator(0, 0, index, "x"))
    for name, factor in jitter.operations if jitter else ():
        once = getattr(F, f"adjust_{name}")(once, factor)

    view = strong_view(weak, twice, sample_generator(0, 0, index, "x"))

    torch.testing.assert_close(view, F.normalize(once, list(MEAN), list(STD)), atol=1e-4, rtol=0)
    assert (jitter is not None) == jittered
