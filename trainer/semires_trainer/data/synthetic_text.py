"""The little language of the synthetic benchmark: descriptions, superlatives, places and relations.

An expression is a value (`Expression`); `candidate_expressions` lists those that mean one object only, with a
margin, so that no reader has to guess. Coordinates grow to the right and downwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

CURVED_SHAPES = ("circle", "ring", "moon", "oval")
CORNERED_SHAPES = ("square", "triangle", "star", "cross")
SHAPES = CURVED_SHAPES + CORNERED_SHAPES
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white")
TEXTURES = ("plain", "striped", "dotted", "checkered")

PLACES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
SIZES = {"larger": 1, "smaller": -1, "largest": 1, "smallest": -1}

KINDS = ("attribute", "place", "size", "relation", "size-relation")

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FUNCTION_WORDS = ("the", "a", "on", "at", "of", "left", "right", "top", "bottom", "above", "below", "object")

POSITION_MARGIN = 0.1
"""A place or relation holds when centres differ by this share of the image; what lies between is not said."""
AREA_MARGIN = 1.4
"""A superlative holds when the visible areas differ at least by this factor."""


class Describable(Protocol):
    """What the language knows of an object: names, centre as shares of the image, visible area in pixels."""

    @property
    def shape(self) -> str: ...
    @property
    def colour(self) -> str: ...
    @property
    def texture(self) -> str: ...
    @property
    def centre(self) -> tuple[float, float]: ...
    @property
    def area(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A noun phrase; a property left out (None) is not said."""

    shape: str | None
    colour: str | None
    texture: str | None

    def matches(self, thing: Describable) -> bool:
        """True if every property that is said is the thing's."""
        said = ((self.shape, thing.shape), (self.colour, thing.colour), (self.texture, thing.texture))
        return all(word is None or word == value for word, value in said)

    @property
    def text(self) -> str:
        """The phrase without article, as in `dotted red circle` or `striped object`."""
        return " ".join(word for word in (self.texture, self.colour, self.shape or "object") if word)

    @property
    def num_words(self) -> int:
        """Number of properties said."""
        return sum(word is not None for word in (self.shape, self.colour, self.texture))


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """`the [size] <target> [on the|at the place] [relation the <anchor>]`."""

    target: Description
    size: str | None = None
    place: str | None = None
    relation: str | None = None
    anchor: Description | None = None

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        parts = {"size": self.size, "place": self.place, "relation": self.relation}
        return "-".join(name for name, word in parts.items() if word) or "attribute"

    @property
    def text(self) -> str:
        """The sentence, lower case."""
        words = ["the", self.size, self.target.text]
        if self.place is not None:
            words += ["at the" if self.place in ("top", "bottom") else "on the", self.place]
        if self.anchor is not None:
            words += [self.relation, "the", self.anchor.text]
        return " ".join(word for word in words if word)


def vocabulary() -> list[str]:
    """All tokens of a WordPiece vocabulary for this language: `[PAD]` is 0, special tokens come first."""
    words = dict.fromkeys((*FUNCTION_WORDS, *SIZES, *COLOURS, *TEXTURES, *SHAPES))
    return [*SPECIAL_TOKENS, *words]


def offset_along(axis: tuple[int, int], thing: Describable, origin: tuple[float, float]) -> float:
    """How far `thing` lies from `origin` in the direction `axis`, as a share of the image."""
    return axis[0] * (thing.centre[0] - origin[0]) + axis[1] * (thing.centre[1] - origin[1])


def is_extreme(scores: Sequence[float], index: int, *, margin: float) -> bool:
    """True if `scores[index]` exceeds all others by `margin`."""
    return all(scores[index] >= other + margin for i, other in enumerate(scores) if i != index)


def is_superlative(word: str, areas: Sequence[int], index: int) -> bool:
    """True if the size word singles out `areas[index]`; -er compares exactly two, -est more than two."""
    if len(areas) < 2 or (len(areas) == 2) != word.endswith("er"):
        return False
    mine, others = areas[index], [area for i, area in enumerate(areas) if i != index]
    if SIZES[word] > 0:
        return mine >= AREA_MARGIN * max(others)
    return mine * AREA_MARGIN <= min(others)


def descriptions_of(thing: Describable) -> Iterator[Description]:
    """Every noun phrase that is true of `thing` and says at least one property."""
    said = ((thing.shape, None), (thing.colour, None), (thing.texture, None))
    for shape, colour, texture in itertools.product(*said):
        if shape or colour or texture:
            yield Description(shape=shape, colour=colour, texture=texture)


def matching(description: Description, things: Sequence[Describable]) -> list[int]:
    """Indices of the things the phrase is true of."""
    return [i for i, thing in enumerate(things) if description.matches(thing)]


def candidate_expressions(things: Sequence[Describable], target: int) -> list[Expression]:
    """All expressions that mean `things[target]` and nothing else, in a fixed order."""
    found: list[Expression] = []
    for description in descriptions_of(things[target]):
        group = matching(description, things)
        if group == [target]:
            found.append(Expression(target=description))
            continue
        found += _by_place(description, things, group, target)
        found += _by_size(description, things, group, target)
        found += _by_relation(description, things, group, target)
    return found


def _by_place(
    description: Description, things: Sequence[Describable], group: list[int], target: int
) -> Iterator[Expression]:
    for place, axis in PLACES.items():
        scores = [offset_along(axis, things[i], (0.5, 0.5)) for i in group]
        mine = group.index(target)
        if scores[mine] > 0 and is_extreme(scores, mine, margin=POSITION_MARGIN):
            yield Expression(target=description, place=place)


def _by_size(
    description: Description, things: Sequence[Describable], group: list[int], target: int
) -> Iterator[Expression]:
    areas = [things[i].area for i in group]
    for size in SIZES:
        if is_superlative(size, areas, group.index(target)):
            yield Expression(target=description, size=size)


def _by_relation(
    description: Description, things: Sequence[Describable], group: list[int], target: int
) -> Iterator[Expression]:
    for anchor_index, relation in itertools.product(range(len(things)), RELATIONS):
        axis, origin = RELATIONS[relation], things[anchor_index].centre
        if anchor_index == target or offset_along(axis, things[target], origin) < POSITION_MARGIN:
            continue
        others = [i for i in group if i not in (anchor_index, target)]
        rivals = [i for i in others if offset_along(axis, things[i], origin) > 0]
        if any(offset_along(axis, things[i], origin) < POSITION_MARGIN for i in rivals):
            continue
        areas = [things[i].area for i in (target, *rivals)]
        sizes = [size for size in SIZES if is_superlative(size, areas, 0)] if rivals else [None]
        for anchor, size in itertools.product(_unique_descriptions(things, anchor_index), sizes):
            yield Expression(target=description, size=size, relation=relation, anchor=anchor)


def _unique_descriptions(things: Sequence[Describable], index: int) -> Iterator[Description]:
    """The shortest phrases that mean `things[index]` only."""
    unique = [d for d in descriptions_of(things[index]) if matching(d, things) == [index]]
    shortest = min((d.num_words for d in unique), default=0)
    yield from (d for d in unique if d.num_words == shortest)
