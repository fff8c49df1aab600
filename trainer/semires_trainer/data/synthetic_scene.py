"""Scenes of the synthetic benchmark: what is in a picture, and the picture.

`compose(rng, size)` places textured objects that may hide one another; `render(scene, rng)` paints background,
clutter, shadows and noise. Both depend on nothing but the generator they are given.
Arrays: H height, W width (H = W = size); coordinates in pixels, y downwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from semires_trainer.data.synthetic_text import COLOURS, SHAPES, TEXTURES

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

NUM_OBJECTS = (2, 4)
RADIUS = (0.15, 0.26)
"""Radius of an object as a share of the image."""
MIN_VISIBLE = 0.6
"""An object of which less is visible is placed again."""
SUPERSAMPLING = 3
PLACEMENT_ATTEMPTS = 100
FRESH_COLOUR_SHARE = 0.6
"""How often an object gets a colour that no other object of the scene has."""

HUES = {"red": 0.99, "orange": 0.075, "yellow": 0.16, "green": 0.36, "blue": 0.6, "purple": 0.79, "white": 0.1}
TEXTURE_CONTRAST = (0.12, 0.3)
SHADING = (0.0, 0.25)
SHADOW = (0.1, 0.4)
RIM = (0.2, 0.5)
NOISE = (0.01, 0.03)
SMEAR_SHARE = 0.5
"""How many of the objects have a shapeless patch of their own colour beside them."""
SMEAR_CONTRAST = (0.2, 0.4)
"""How much lighter or darker than the object its patch is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One object as it stands in the scene."""

    shape: str
    colour: str
    texture: str
    x: float
    y: float
    radius: float
    cover_HW: Floats
    """Share of each pixel that the object covers, hidden parts included."""
    mask_HW: Mask
    """The visible part."""

    @property
    def area(self) -> int:
        """Visible pixels."""
        return int(self.mask_HW.sum())

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the visible part, (x, y) as shares of the image."""
        ys, xs = np.nonzero(self.mask_HW)
        height, width = self.mask_HW.shape
        return (float(xs.mean()) + 0.5) / width, (float(ys.mean()) + 0.5) / height


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Objects from back to front."""

    size: int
    things: tuple[Thing, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Placement:
    shape: str
    x: float
    y: float
    radius: float
    angle: float


def compose(rng: np.random.Generator, size: int) -> Scene:
    """Place 2 to 4 objects so that each shows at least `MIN_VISIBLE` of itself and has a look of its own."""
    wanted = int(rng.integers(NUM_OBJECTS[0], NUM_OBJECTS[1] + 1))
    placed: list[_Placement] = []
    covers: list[Floats] = []
    for _ in range(PLACEMENT_ATTEMPTS):
        if len(placed) == wanted:
            break
        candidate = _propose(rng, size)
        cover = coverage(candidate, size)
        if all(shown >= MIN_VISIBLE for shown in _visible_shares([*covers, cover])):
            placed.append(candidate)
            covers.append(cover)
    looks = _distinct_looks(rng, [p.shape for p in placed])
    things = (
        Thing(
            shape=p.shape, colour=colour, texture=texture, x=p.x, y=p.y, radius=p.radius, cover_HW=cover, mask_HW=mask
        )
        for p, (colour, texture), cover, mask in zip(placed, looks, covers, _visible(covers), strict=True)
    )
    return Scene(size=size, things=tuple(things))


def _propose(rng: np.random.Generator, size: int) -> _Placement:
    shape = str(rng.choice(SHAPES))
    radius = float(rng.uniform(*RADIUS)) * size
    x, y = (float(rng.uniform(0.75 * radius, size - 0.75 * radius)) for _ in range(2))
    return _Placement(shape=shape, x=x, y=y, radius=radius, angle=float(rng.uniform(-0.35, 0.35)))


def _distinct_looks(rng: np.random.Generator, shapes: list[str]) -> list[tuple[str, str]]:
    """A colour and a texture for each object such that no two objects agree in shape, colour and texture."""
    taken: set[tuple[str, str, str]] = set()
    looks: list[tuple[str, str]] = []
    for shape in shapes:
        while True:
            fresh = [colour for colour in COLOURS if all(colour != look[0] for look in looks)]
            colours = fresh if rng.random() < FRESH_COLOUR_SHARE else COLOURS
            colour, texture = str(rng.choice(colours)), str(rng.choice(TEXTURES))
            if (shape, colour, texture) not in taken:
                break
        taken.add((shape, colour, texture))
        looks.append((colour, texture))
    return looks


def _visible(covers: list[Floats]) -> list[Mask]:
    """Visible parts of objects stacked from back to front: what covers half a pixel owns it."""
    visible: list[Mask] = []
    hidden = np.zeros(covers[0].shape, bool)
    for cover in reversed(covers):
        visible.append((cover > 0.5) & ~hidden)
        hidden |= cover > 0.5
    return visible[::-1]


def _visible_shares(covers: list[Floats]) -> list[float]:
    """Visible share of each object; what an image border cuts off does not count as hidden."""
    return [float(shown.sum() / cover.sum()) for shown, cover in zip(_visible(covers), covers, strict=True)]


def coverage(placement: _Placement, size: int) -> Floats:
    """Share of every pixel (size, size) that the whole object covers, hidden parts included."""
    shares = np.zeros((size, size), np.float32)
    left, right = _span(placement.x, placement.radius, size)
    top, bottom = _span(placement.y, placement.radius, size)
    dx = (_fine_centres(left, right) - placement.x)[None, :] / placement.radius
    dy = (_fine_centres(top, bottom) - placement.y)[:, None] / placement.radius
    cosine, sine = np.float32(np.cos(placement.angle)), np.float32(np.sin(placement.angle))
    inside = _inside(placement.shape, cosine * dx + sine * dy, cosine * dy - sine * dx)
    blocks = inside.reshape(bottom - top, SUPERSAMPLING, right - left, SUPERSAMPLING)
    shares[top:bottom, left:right] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return shares


def _span(centre: float, radius: float, size: int) -> tuple[int, int]:
    """Pixels that an object may touch along one axis; no shape reaches further than 1.15 radii."""
    return max(0, int(centre - 1.15 * radius)), min(size, int(centre + 1.15 * radius) + 2)


def _fine_centres(start: int, stop: int) -> Floats:
    """Centres of the supersampled pixels between two pixel edges."""
    steps = np.arange((stop - start) * SUPERSAMPLING, dtype=np.float32)
    return np.asarray(start + (steps + 0.5) / SUPERSAMPLING, dtype=np.float32)


def _inside(shape: str, u: Floats, v: Floats) -> Mask:
    """Shape in its own frame: u to the right, v downwards, unit radius."""
    r2 = u * u + v * v
    ax, ay = np.abs(u), np.abs(v)
    match shape:
        case "circle":
            inside = r2 < 0.9
        case "ring":
            inside = (r2 < 1) & (r2 > 0.3)
        case "moon":
            inside = (r2 < 1) & ((u - 0.5) ** 2 + v * v > 0.55)
        case "oval":
            inside = u * u / 1.2 + v * v / 0.4 < 1
        case "square":
            inside = np.maximum(ax, ay) < 0.82
        case "triangle":
            inside = (v < 0.7) & (1.8 * ax < v + 0.95)
        case "cross":
            inside = (np.minimum(ax, ay) < 0.33) & (np.maximum(ax, ay) < 0.95)
        case "star":
            sector = np.float32(2 * np.pi / 5)
            turn = np.abs((np.arctan2(u, -v) + sector / 2) % sector - sector / 2)
            inside = np.sqrt(r2) * (np.cos(turn) + 1.4 * np.sin(turn)) < 1.1
        case _:
            raise ValueError(f"unknown shape {shape!r}")
    return np.asarray(inside)


def render(scene: Scene, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Paint the scene; returns RGB (size, size, 3)."""
    size = scene.size
    canvas = _background(rng, size)
    tones = [_colour(rng, thing.colour) for thing in scene.things]
    for thing, tone in zip(scene.things, tones, strict=True):
        if rng.random() < SMEAR_SHARE:
            canvas = _smear(rng, canvas, thing, tone)
    for thing, tone in zip(scene.things, tones, strict=True):
        alpha = thing.cover_HW
        canvas *= 1 - float(rng.uniform(*SHADOW)) * _shadow(rng, alpha)[..., None]
        soft = _blur(alpha, 0.6)[..., None]
        rim = np.float32(1) - np.float32(rng.uniform(*RIM)) * _rim(alpha)[..., None]
        canvas += (_surface(rng, thing, tone) * rim - canvas) * soft
    canvas += rng.normal(0, float(rng.uniform(*NOISE)), canvas.shape).astype(np.float32)
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def _background(rng: np.random.Generator, size: int) -> Floats:
    """Two muted tones mixed by a gradient and cloudy noise, with a few unnamed patches of clutter."""
    first, second = (_tone(rng, saturation=(0.1, 0.5), value=(0.35, 0.8)) for _ in range(2))
    mix = (0.5 * _gradient(rng, size) + 0.5 * _clouds(rng, size, (4, 8, 24)))[..., None]
    canvas = first * (1 - mix) + second * mix
    for _ in range(int(rng.integers(1, 4))):
        patch = _clouds(rng, size, (3, 9)) > float(rng.uniform(0.72, 0.85))
        tone = _tone(rng, saturation=(0.2, 0.6), value=(0.3, 0.9))
        alpha = 0.8 * _blur(patch.astype(np.float32), 0.8)[..., None]
        canvas = canvas * (1 - alpha) + tone * alpha
    canvas *= 1 + 0.3 * (_clouds(rng, size, (size // 4, size // 2)) - 0.5)[..., None]
    return np.asarray(canvas, dtype=np.float32)


def _smear(rng: np.random.Generator, canvas: Floats, thing: Thing, tone: Floats) -> Floats:
    """Paint a shapeless patch of the object's own colour beside it: colour alone does not tell what the object is."""
    size = canvas.shape[0]
    angle = float(rng.uniform(0, 2 * np.pi))
    steps = np.arange(size, dtype=np.float32)
    dx = (steps - thing.x - thing.radius * np.cos(angle))[None, :] / thing.radius
    dy = (steps - thing.y - thing.radius * np.sin(angle))[:, None] / thing.radius
    patch = np.exp(-0.5 * (dx * dx + dy * dy)) + 1.2 * (_clouds(rng, size, (5, 10)) - 0.5) > 0.55
    alpha = 0.9 * _blur(patch.astype(np.float32), 0.8)[..., None]
    lighter = float(rng.uniform(*SMEAR_CONTRAST)) * (1 if tone.max() < 0.7 else -1)
    return np.asarray(canvas * (1 - alpha) + tone * (1 + lighter) * alpha, dtype=np.float32)


def _colour(rng: np.random.Generator, name: str) -> Floats:
    """One of the tones that the colour's name stands for."""
    if name == "white":
        return _rgb(HUES[name], float(rng.uniform(0.0, 0.1)), float(rng.uniform(0.8, 1.0)))
    hue = HUES[name] + float(rng.uniform(-0.015, 0.015))
    return _rgb(hue, float(rng.uniform(0.6, 0.95)), float(rng.uniform(0.55, 0.95)))


def _rim(alpha: Floats) -> Floats:
    """Where the object ends: 1 at its edge, 0 a few pixels inside."""
    inner = _blur(alpha, alpha.shape[0] / 128)
    return np.asarray(np.clip(2 * (1 - inner), 0, 1) ** 2, dtype=np.float32)


def _surface(rng: np.random.Generator, thing: Thing, tone: Floats) -> Floats:
    """Colour of the object's surface at every pixel: its tone with texture, light and grain."""
    size = thing.mask_HW.shape[0]
    dark = tone * (1 - float(rng.uniform(*TEXTURE_CONTRAST)))
    pattern = _pattern(rng, thing, size)[..., None]
    surface = tone * (1 - pattern) + dark * pattern
    shade = 1 + float(rng.uniform(*SHADING)) * (_gradient(rng, size) - 0.5) * size / (3 * thing.radius)
    grain = 1 + 0.2 * (_clouds(rng, size, (12, 32)) - 0.5)
    return np.asarray(surface * (np.clip(shade, 0.5, 1.5) * grain)[..., None], dtype=np.float32)


def _pattern(rng: np.random.Generator, thing: Thing, size: int) -> Floats:
    """0 where the texture shows the light tone, 1 where the dark."""
    angle = float(rng.uniform(0, np.pi))
    period = float(rng.uniform(0.055, 0.08)) * size
    steps = np.arange(size, dtype=np.float32)
    dx, dy = (steps - thing.x)[None, :], (steps - thing.y)[:, None]
    a = (np.cos(angle) * dx + np.sin(angle) * dy) / period
    b = (np.cos(angle) * dy - np.sin(angle) * dx) / period
    match thing.texture:
        case "striped":
            wave = np.sin(2 * np.pi * a)
        case "checkered":
            wave = np.sin(np.pi * a) * np.sin(np.pi * b) * 3
        case "dotted":
            wave = 0.4 - np.hypot((a % 1) - 0.5, (b % 1) - 0.5) * 1.3
        case _:
            return np.zeros((size, size), np.float32)
    return np.asarray(np.clip(0.5 + 2.5 * wave, 0, 1), dtype=np.float32)


def _shadow(rng: np.random.Generator, alpha: Floats) -> Floats:
    """Soft shadow to the lower side of the object."""
    reach = alpha.shape[0] / 40
    shift = (round(float(rng.uniform(0.5, 1.5)) * reach), round(float(rng.uniform(-1, 1)) * reach))
    return _blur(np.roll(alpha, shift, axis=(0, 1)), reach / 2)


def _gradient(rng: np.random.Generator, size: int) -> Floats:
    """Linear ramp from 0 to 1 in a random direction."""
    angle = float(rng.uniform(0, 2 * np.pi))
    steps = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    ramp = np.cos(angle) * steps[None, :] + np.sin(angle) * steps[:, None]
    return np.asarray((ramp - ramp.min()) / (ramp.max() - ramp.min()), dtype=np.float32)


def _clouds(rng: np.random.Generator, size: int, grids: tuple[int, ...]) -> Floats:
    """Smooth noise in 0..1: random grids of the given sizes, enlarged and averaged."""
    layers = []
    for cells in grids:
        coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        layers.append(np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)))
    return np.asarray(np.clip(np.mean(layers, axis=0), 0, 1), dtype=np.float32)


def _blur(image: Floats, sigma: float) -> Floats:
    """Separable Gaussian blur with edge padding."""
    reach = max(1, round(3 * sigma))
    offsets = np.arange(-reach, reach + 1, dtype=np.float32)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    blurred = image
    for axis in (0, 1):
        pad = [(reach, reach) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(blurred, pad, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=axis)
        blurred = np.asarray(windows @ kernel, dtype=np.float32)
    return blurred


def _tone(rng: np.random.Generator, *, saturation: tuple[float, float], value: tuple[float, float]) -> Floats:
    """A colour of any hue."""
    return _rgb(float(rng.uniform()), float(rng.uniform(*saturation)), float(rng.uniform(*value)))


def _rgb(hue: float, saturation: float, value: float) -> Floats:
    """One colour from HSV in 0..1."""
    channels = (np.array([0, 4, 2], dtype=np.float32) + np.float32(hue * 6)) % 6
    ramp = np.clip(np.abs(channels - 3) - 1, 0, 1)
    return np.asarray(value * (1 - saturation + saturation * ramp), dtype=np.float32)
