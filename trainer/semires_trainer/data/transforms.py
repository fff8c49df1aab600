"""From a picture to the views that teacher and student see; all chance is the sample generator's.

Weak view: blurred with probability 1/2 (seen by the teacher). Strong view: the weak view with jittered
colours (seen by the student). Geometry is the same, so pseudo-labels need no warping. Views are uint8 (3, S,
S) and normalised on the device, except for the released code's bug 'Twice', whose strong view is float and
final.

Blur and hue are our own arithmetic, several times faster than Pillow's and torchvision's on a CPU; tests
bound the difference (blur: 2 of 255 levels, rounding; jitter: 1 level).

Shapes: S training size, H height, W width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from semires_trainer.data.sampling import draw_below

Pixels = npt.NDArray[np.uint8]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, as LAVT and its starting weights use them."""

_BLUR_WEIGHTS = tuple(map(np.uint16, (1, 14, 61, 104)))
"""Outer to middle, in 1/256: Pillow's GaussianBlur(radius=1), which is [1, 4, 1] / 6 applied three times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How unlabelled pictures are varied; the defaults are the official code's."""

    blur_probability: float = 0.5
    jitter_probability: float = 0.5
    jitter_brightness: float = 0.25
    """Factor from [1 - value, 1 + value]; the same for contrast and saturation."""
    jitter_contrast: float = 0.25
    jitter_saturation: float = 0.25
    jitter_hue: float = 0.25
    """Shift from [-value, value], in turns of the colour circle."""
    strong_normalization: Literal["Once", "Twice"] = "Once"
    """Twice: colours are jittered (and clamped to [0, 1]) after normalisation, then normalised again."""


class Jitter(NamedTuple):
    """One drawn colour change: operations in order, each with its factor (hue: its shift)."""

    operations: tuple[tuple[str, float], ...]


def resize_image(picture: Image.Image, size: int) -> Pixels:
    """Resize to (S, S, 3) uint8, bilinear with antialiasing, without keeping the aspect ratio."""
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def to_tensor(pixels: Pixels) -> Tensor:
    """(S, S, 3) to a (3, S, S) uint8 tensor of its own memory."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def normalize(image: Tensor) -> Tensor:
    """Make uint8 (..., 3, H, W) float and remove ImageNet's mean and deviation.

    Float views are final already.
    """
    if image.dtype != torch.uint8:
        return image
    mean, std = _statistics(image.device)
    return image.to(torch.float32).div_(255).sub_(mean).div_(std)


def weak_view(pixels: Pixels, augmentation: Augmentation, generator: np.random.Generator) -> Pixels:
    """Blur (S, S, 3) with the given probability; always takes one draw."""
    return blur(pixels) if generator.random() < augmentation.blur_probability else pixels


def strong_view(weak: Tensor, augmentation: Augmentation, generator: np.random.Generator) -> Tensor:
    """Jitter the colours of the weak view (3, S, S) uint8 with the given probability.

    Always takes the same draws.
    """
    jitter = draw_jitter(augmentation, generator)
    if augmentation.strong_normalization == "Twice":
        once = normalize(weak)
        jittered = once if jitter is None else _apply_torchvision(once, jitter)
        mean, std = _statistics(weak.device)
        return (jittered - mean) / std
    return weak if jitter is None else apply_jitter(weak, jitter)


def draw_jitter(augmentation: Augmentation, generator: np.random.Generator) -> Jitter | None:
    """Draw whether, in which order and how far colours change, as torchvision's ColorJitter."""
    happens = generator.random() < augmentation.jitter_probability
    ranges = [
        ("brightness", 1.0, augmentation.jitter_brightness),
        ("contrast", 1.0, augmentation.jitter_contrast),
        ("saturation", 1.0, augmentation.jitter_saturation),
        ("hue", 0.0, augmentation.jitter_hue),
    ]
    drawn = [(name, middle + width * (2 * generator.random() - 1)) for name, middle, width in ranges]
    for last in range(len(drawn) - 1, 0, -1):
        other = draw_below(generator, last + 1)
        drawn[last], drawn[other] = drawn[other], drawn[last]
    return Jitter(tuple(drawn)) if happens else None


def apply_jitter(image: Tensor, jitter: Jitter) -> Tensor:
    """Change the colours of a uint8 (3, H, W) picture; between the operations it stays float, in [0, 1]."""
    result = image.to(torch.float32).div_(255)
    for name, factor in jitter.operations:
        result = _OPERATIONS[name](result, factor)
    return result.mul_(255).add_(0.5).to(torch.uint8)


def shift_hue(image: Tensor, shift: float) -> Tensor:
    """Turn the hue of a float (3, H, W) picture in [0, 1] by `shift` turns, at constant HSV S and V."""
    red, green, blue = image.unbind(0)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    scale = 1 / torch.where(chroma == 0, 1.0, chroma)
    from_green = (blue - red).mul_(scale).add_(2)
    from_blue = (red - green).mul_(scale).add_(4)
    hue = torch.where(value == green, from_green, from_blue)
    hue = torch.where(value == red, (green - blue).mul_(scale), hue).add_(6 * shift)
    result = torch.empty_like(image)
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        sector = hue + offset
        sector.sub_((sector / 6).floor_(), alpha=6)
        share = torch.minimum(sector, 4 - sector).clamp_(0, 1)
        torch.sub(value, share.mul_(chroma), out=result[channel])
    return result


def blur(pixels: Pixels) -> Pixels:
    """Blur (H, W, 3) as Pillow's GaussianBlur(radius=1), in 16-bit integers with one rounding an axis.

    Pillow rounds six times and loses a fraction of a level; rounding the second axis at 3/4 makes up for it.
    """
    outer, second, third, middle = _BLUR_WEIGHTS
    result = pixels.astype(np.uint16)
    for axis, rounding in ((1, np.uint16(128)), (0, np.uint16(64))):
        border = [(0, 0)] * 3
        border[axis] = (3, 3)
        # Mirrored, border included: the same as repeating the border before each of Pillow's three passes.
        padded = np.pad(result, border, mode="symmetric").swapaxes(0, axis)
        length = len(padded) - 6
        total = padded[3 : 3 + length] * middle
        for place, weight in enumerate((outer, second, third)):
            pair = padded[place : place + length] + padded[6 - place : 6 - place + length]
            pair *= weight
            total += pair
        total += rounding
        total >>= np.uint16(8)
        result = total.swapaxes(0, axis)
    return result.astype(np.uint8)


_OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": shift_hue,
}


def _apply_torchvision(image: Tensor, jitter: Jitter) -> Tensor:
    """Torchvision's operations on a normalised picture, clamping to [0, 1] included, as official.

    All but the first operation see values in [0, 1], where our hue agrees with torchvision's.
    """
    for place, (name, factor) in enumerate(jitter.operations):
        operation = F.adjust_hue if name == "hue" and place == 0 else _OPERATIONS[name]
        image = operation(image, factor)
    return image


@functools.cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation (3, 1, 1) on a device, copied there once."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return mean, std
