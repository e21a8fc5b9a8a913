"""The world of the embedded data: what a scene can hold, and scene `index` of a split as a pure function.

A scene is a background and some things, each in its own cell of a grid that its framing says. All randomness comes from
the raw bits of a counter-based generator, whose stream NumPy guarantees (unlike the streams of `Generator`), so
a scene is the same on every machine and with every NumPy version.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from wenlan_jax.util.errors import WenlanError

Colour = tuple[int, int, int]
SceneKey = tuple[str, tuple[tuple[str, str, str, str, int], ...]]
_T = TypeVar("_T")

SHAPES = (
    "circle", "square", "triangle", "star", "heart", "ring", "cross", "moon",
    "house", "fish", "tree", "flower", "boat", "mushroom", "arrow", "cup",
)  # fmt: skip
SIZES = {"small": 0.1, "large": 0.15}
"""Half the side of a thing's frame in a wide framing, as a share of the image's side."""

TEXTURES = ("solid", "striped", "dotted", "checked")

COLOURS: dict[str, Colour] = {
    "red": (214, 39, 40),
    "orange": (255, 138, 0),
    "yellow": (250, 218, 40),
    "green": (30, 140, 55),
    "blue": (35, 85, 215),
    "purple": (125, 45, 165),
    "pink": (255, 130, 185),
    "brown": (115, 68, 30),
    "white": (252, 252, 252),
    "black": (24, 24, 28),
}
"""sRGB of each colour a thing can have."""

BACKGROUNDS: dict[str, tuple[Colour, ...]] = {
    "white": ((244, 244, 244),),
    "black": ((24, 24, 28),),
    "grey": ((150, 150, 150),),
    "paper": ((236, 241, 236), (188, 208, 224)),
    "pastel": ((226, 206, 246), (204, 240, 226)),
    "sky": ((112, 180, 240), (180, 216, 246), (244, 248, 252)),
    "meadow": ((200, 228, 246), (124, 196, 92), (96, 176, 74)),
    "sea": ((206, 232, 246), (36, 112, 164), (62, 140, 188)),
    "night": ((10, 14, 48), (36, 40, 92), (240, 236, 200)),
    "desert": ((250, 230, 190), (228, 188, 122), (206, 162, 96)),
    "snow": ((190, 206, 226), (236, 241, 248), (218, 228, 240)),
    "sunset": ((92, 52, 116), (250, 156, 96), (255, 214, 120)),
    "wood": ((176, 126, 80), (154, 106, 64), (120, 80, 46)),
}
"""The colours each background is drawn with; `draw` says what each of them is for."""

UNCLEAR = {"night": ("star",), "sunset": ("circle",)}
"""Shapes that a background shows by itself, so that counting them would be ambiguous."""

LEAST_CONTRAST = 175
"""Least redmean distance between a thing's colour and the background's two main colours (black to white: 765)."""

SPLITS = {"train": (0, 1), "validation": (2,), "test": (3,)}
"""Which quarters of all scene keys, by checksum, belong to each split. So no two splits share a scene."""

_COUNTS = (1, 1, 2, 2, 2, 3, 3, 3, 4, 4)
_TEXTURE_LOTS = ("solid", "solid", "solid", "striped", "dotted", "checked")
_ECHO = 0.2  # chance that a thing repeats the shape of the one before, so that counting has something to count


class SceneError(WenlanError, ValueError):
    """A request for a scene, split or data set size that does not exist."""


class Dice:
    """Random choices from the stream that `entropy` (numbers and names) addresses."""

    def __init__(self, *entropy: int | str) -> None:
        words = [zlib.crc32(word.encode()) if isinstance(word, str) else word for word in entropy]
        self._bits = np.random.Philox(np.random.SeedSequence(words))

    def integer(self, limit: int) -> int:
        """A whole number from 0 to `limit - 1`."""
        return int(self._bits.random_raw()) * limit >> 64

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high) with 53 random bits."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) / 2**53)

    def choose(self, options: Sequence[_T]) -> _T:
        """One of `options`."""
        return options[self.integer(len(options))]

    def sample(self, options: Sequence[_T], count: int) -> list[_T]:
        """`count` different places of `options`, in random order."""
        pool = list(options)
        return [pool.pop(self.integer(len(pool))) for _ in range(count)]


@dataclasses.dataclass(frozen=True)
class Framing:
    """How near the camera is.

    Attributes:
        most: things in a scene, at most.
        cells: those of the 3 x 3 grid of positions that are used, 0 to 8, row by row.
        places: centre of a cell by its row or column.
        scale: of sizes and cells.
    """

    most: int
    cells: tuple[int, ...]
    places: tuple[float, float, float]
    scale: float


WIDE = Framing(most=max(_COUNTS), cells=tuple(range(9)), places=(0.5 / 3, 1.5 / 3, 2.5 / 3), scale=1.0)
CLOSE = Framing(most=2, cells=(0, 2, 6, 8), places=(0.25, 0.5, 0.75), scale=1.5)
"""Four corners with larger things, which a network can tell apart in few pixels."""


@dataclasses.dataclass(frozen=True)
class Thing:
    """One drawn thing. Lengths are shares of the image's side.

    Attributes:
        shape: its name.
        colour: its name.
        size: its name.
        texture: its name.
        cell: of the 3 x 3 grid, row by row from the top left.
        centre: x and y.
        half: half the side of its frame.
        tilt: the tangent of half its angle.
        mirrored: left and right.
        shade: added to the sRGB of the colour.
    """

    shape: str
    colour: str
    size: str
    texture: str
    cell: int
    centre: tuple[float, float]
    half: float  # of the side of its frame
    tilt: float  # tangent of half the angle
    mirrored: bool
    shade: tuple[int, int, int]  # added to the sRGB of the colour

    @property
    def row(self) -> int:
        """0 (top) to 2 (bottom)."""
        return self.cell // 3

    @property
    def column(self) -> int:
        """0 (left) to 2 (right)."""
        return self.cell % 3


@dataclasses.dataclass(frozen=True)
class Scene:
    """What one image shows.

    Attributes:
        split: of the scene.
        index: of the scene in its split.
        background: its name.
        things: what is on it.
        variant: free numbers in [0, 1) by which backgrounds of a kind differ.
    """

    split: str
    index: int
    background: str
    things: tuple[Thing, ...]
    variant: tuple[float, ...]

    @property
    def id(self) -> str:
        """The name of the scene in the data set."""
        return f"{self.split}-{self.index:06d}"

    @property
    def key(self) -> SceneKey:
        """All that a description can say of the scene; equal keys mean the same scene up to small offsets."""
        things = ((t.shape, t.colour, t.size, t.texture, t.cell) for t in self.things)
        return self.background, tuple(sorted(things, key=lambda thing: thing[-1]))


def contrast(first: Colour, second: Colour) -> float:
    """Computes how different two sRGB colours look: their redmean distance, from 0 to 765."""
    red_mean = (first[0] + second[0]) / 2
    red, green, blue = (a - b for a, b in zip(first, second, strict=True))
    weighted = (2 + red_mean / 256) * red**2 + 4 * green**2 + (2 + (255 - red_mean) / 256) * blue**2
    return float(weighted**0.5)


def shapes_on(background: str) -> tuple[str, ...]:
    """Lists the shapes that cannot be taken for a part of `background`."""
    return tuple(shape for shape in SHAPES if shape not in UNCLEAR.get(background, ()))


def colours_on(background: str) -> tuple[str, ...]:
    """Lists the colours that stand out on `background`."""
    return _COLOURS_ON[background]


_COLOURS_ON = {
    background: tuple(
        name
        for name, colour in COLOURS.items()
        if all(contrast(colour, ground) >= LEAST_CONTRAST for ground in grounds[:2])
    )
    for background, grounds in BACKGROUNDS.items()
}


def sample_scene(seed: int, split: str, index: int, framing: Framing = WIDE) -> Scene:
    """Draws a scene; it depends on nothing but the arguments.

    Args:
        seed: of all scenes.
        split: of the scene.
        index: of the scene in its split.
        framing: how near the camera is.

    Returns:
        The scene.

    Raises:
        SceneError: for an unknown split.
    """
    if split not in SPLITS:
        raise SceneError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    dice = Dice(seed, "scene", split, index)
    while True:  # each turn succeeds with probability 1/2 or 1/4
        scene = _draw_lots(dice, split, index, framing)
        if zlib.crc32(repr(scene.key).encode()) % 4 in SPLITS[split]:
            return scene


def _draw_lots(dice: Dice, split: str, index: int, framing: Framing) -> Scene:
    background = dice.choose(tuple(BACKGROUNDS))
    count = dice.choose([count for count in _COUNTS if count <= framing.most])
    things: list[Thing] = []
    for cell in sorted(dice.sample(framing.cells, count)):
        echo = things and dice.uniform(0, 1) < _ECHO
        shape = things[-1].shape if echo else dice.choose(shapes_on(background))
        things.append(_thing(dice, shape, background, cell, framing))
    return Scene(split, index, background, tuple(things), tuple(dice.uniform(0, 1) for _ in range(8)))


def _thing(dice: Dice, shape: str, background: str, cell: int, framing: Framing) -> Thing:
    size = dice.choose(tuple(SIZES))
    half = framing.scale * SIZES[size]
    room = 0.9 * (framing.scale / 6 - half)  # offsets keep the frame inside its cell, a tenth of a turn aside
    return Thing(
        shape=shape,
        colour=dice.choose(colours_on(background)),
        size=size,
        texture=dice.choose(_TEXTURE_LOTS),
        cell=cell,
        centre=(
            framing.places[cell % 3] + dice.uniform(-room, room),
            framing.places[cell // 3] + dice.uniform(-room, room),
        ),
        half=half,
        tilt=dice.uniform(-0.08, 0.08),
        mirrored=dice.integer(2) == 1,
        shade=(dice.integer(25) - 12, dice.integer(25) - 12, dice.integer(25) - 12),
    )
