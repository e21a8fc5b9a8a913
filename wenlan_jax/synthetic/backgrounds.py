"""Painting of backgrounds, under the same rule as `draw`: only operations that IEEE 754 fixes to the last bit.

A painter takes the palette of its background, the pixel midpoints `x` and `y` in [0, 1], the scene's free numbers
and the width of a pixel, and gives RGB values in [0, 255].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from wenlan_jax.synthetic.world import BACKGROUNDS, Scene

Plane = Float[np.ndarray, "height width"]
Image = Float[np.ndarray, "height width 3"]
Palette = tuple[Float[np.ndarray, " 3"], ...]
Variant = tuple[float, ...]


def _mix(low: np.ndarray, high: np.ndarray, share: Plane) -> Image:
    """`low` where `share` is 0, `high` where it is 1."""
    return low + share[..., None] * (high - low)


def _past(value: Plane, edge: Plane | float, pixel: float) -> Plane:
    """Soft step of one pixel: 0 where `value` is below `edge`, 1 above."""
    return np.clip((value - edge) / pixel + 0.5, 0.0, 1.0)


def _wave(x: Plane) -> Plane:
    """A smooth wave of period 1 between 0 and 1, made of parabolas."""
    phase = x - np.floor(x)
    half = np.where(phase < 0.5, phase, phase - 0.5) * 2.0
    arc = 2.0 * half * (1.0 - half)
    return np.where(phase < 0.5, 0.5 + arc, 0.5 - arc)


def _blob(x: Plane, y: Plane, cx: float, cy: float, rx: float, ry: float, pixel: float) -> Plane:
    """Coverage by a filled ellipse, its edge about a pixel soft."""
    distance = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2
    return _past(-distance, -1.0, 2.0 * pixel / min(rx, ry))


def _plain(palette: Palette, x: Plane, y: Plane, variant: Variant, pixel: float) -> Image:
    return np.broadcast_to(palette[0] + 8.0 * (variant[0] - 0.5), (*x.shape, 3)).copy()


def _paper(palette: Palette, x: Plane, y: Plane, variant: Variant, pixel: float) -> Image:
    width = max(0.012, pixel)
    lines = np.zeros(x.shape)
    for axis, offset in ((x, variant[0]), (y, variant[1])):
        place = axis * 10.0 + offset
        lines = np.maximum(lines, _past(-np.abs(place - np.floor(place) - 0.5), -5.0 * width, 10.0 * pixel))
    return _mix(palette[0], palette[1], lines)


def _pastel(palette: Palette, x: Plane, y: Plane, variant: Variant, pixel: float) -> Image:
    return _mix(palette[0], palette[1], variant[0] * x + (1.0 - variant[0]) * y)


def _sky(palette: Palette, x: Plane, y: Plane, variant: Variant, pixel: float) -> Image:
    clouds = np.zeros(x.shape)
    for cx, cy in ((variant[0], 0.15 + 0.3 * variant[1]), (variant[2], 0.55 + 0.3 * variant[3])):
        for shift, lift, radius in ((-0.1, 0.02, 0.07), (0.0, 0.0, 0.1), (0.11, 0.025, 0.065)):
            clouds = np.maximum(clouds, _blob(x, y, cx + shift, cy + lift, 1.3 * radius, 0.7 * radius, pixel))
    return _mix(_mix(palette[0], palette[1], y), palette[2], clouds)


def _meadow(palette: Palette, x: Plane, y: Plane, variant: Variant, pixel: float) -> Image:
    hills = 0.3 + 0.08 * _wave(0.8 * x + variant[0])
    blades = _wave(21.0 * x + 3.0 * _wave(4.0 * y + variant[1])) * _wave(13.0 * y)
    return _mix(palette[0], _mix(palette[1], palette[2], blades), _past(y, hills, pixel))


def _sea(palette: Palette, x: Plane, y: Plane, variant: Variant, pixel: float) -> Image:
    crests = _past(_wave(7.0 * y + 0.5 * _wave(3.0 * x + variant[0])), 0.8, 0.2)
    horizon = 0.25 + 0.15 * variant[1]
    return _mix(palette[0], _mix(palette[1], palette[2], crests), _past(y, horizon, pixel))


def _night(palette: Palette, x: Plane, y: Plane, variant: Variant, pixel: float) -> Image:
    stars = np.zeros(x.shape)
    radius = max(0.006, 0.5 * pixel)
    for number in range(24):
        across, down = 7.3 * number * variant[0] + variant[1], 5.7 * number * variant[2] + variant[3]
        stars = np.maximum(stars, _blob(x, y, across % 1.0, down % 1.0, radius, radius, pixel))
    return _mix(_mix(palette[0], palette[1], y), palette[2], stars)


def _desert(palette: Palette, x: Plane, y: Plane, variant: Variant, pixel: float) -> Image:
    far = 0.38 + 0.14 * _wave(0.7 * x + variant[0])
    near = 0.62 + 0.2 * _wave(0.9 * x + variant[1])
    return _mix(_mix(palette[0], palette[1], _past(y, far, pixel)), palette[2], _past(y, near, pixel))


def _snow(palette: Palette, x: Plane, y: Plane, variant: Variant, pixel: float) -> Image:
    far = 0.42 + 0.1 * _wave(0.8 * x + variant[0])
    near = 0.7 + 0.1 * _wave(0.6 * x + variant[1])
    ground = _mix(_mix(palette[0], palette[2], _past(y, far, pixel)), palette[1], _past(y, near, pixel))
    flakes = np.zeros(x.shape)
    for first, other in zip(variant, variant[1:] + variant[:1], strict=True):
        flakes = np.maximum(flakes, _blob(x, y, first, 0.6 * other, 0.014, 0.014, pixel))
    return _mix(ground, np.full(3, 255.0), flakes)


def _sunset(palette: Palette, x: Plane, y: Plane, variant: Variant, pixel: float) -> Image:
    height = 0.75 + 0.1 * variant[0]
    glow = _blob(x, y, variant[1], height, 0.09, 0.09, pixel)
    return _mix(_mix(_mix(palette[0], palette[1], y), palette[2], glow), palette[0], _past(y, height, pixel))


def _wood(palette: Palette, x: Plane, y: Plane, variant: Variant, pixel: float) -> Image:
    grain = _wave(16.0 * y + 1.5 * _wave(x + variant[0]) + variant[1])
    board = 5.0 * y + variant[2]
    gaps = _past(-np.abs(board - np.floor(board) - 0.5), -max(0.03, 3.0 * pixel), 5.0 * pixel)
    return _mix(_mix(palette[0], palette[1], grain), palette[2], gaps)


_PAINTERS: dict[str, Callable[[Palette, Plane, Plane, Variant, float], Image]] = {
    "white": _plain,
    "black": _plain,
    "grey": _plain,
    "paper": _paper,
    "pastel": _pastel,
    "sky": _sky,
    "meadow": _meadow,
    "sea": _sea,
    "night": _night,
    "desert": _desert,
    "snow": _snow,
    "sunset": _sunset,
    "wood": _wood,
}


def paint_background(scene: Scene, size: int) -> Image:
    """Paints the background of a scene at `size` x `size` pixels."""
    middles = (np.arange(size) + 0.5) / size
    x, y = np.broadcast_arrays(middles[None, :], middles[:, None])
    palette = tuple(np.asarray(colour, float) for colour in BACKGROUNDS[scene.background])
    return _PAINTERS[scene.background](palette, x, y, scene.variant, 1.0 / size)
