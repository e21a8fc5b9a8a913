"""Drawing of scenes: coverage masks by supersampling, with operations that IEEE 754 fixes to the last bit.

Only sums, products, quotients and comparisons of float64 are used (no sine, no BLAS, no library's line drawing), so
a scene has the same pixels on every machine. Inside tests use a thing's own frame: x to the right and y down, -1 to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from wenlan_jax.synthetic.backgrounds import paint_background
from wenlan_jax.synthetic.world import COLOURS, Scene, Thing

Plane = Float[np.ndarray, "height width"]
Inside = Bool[np.ndarray, "height width"]

SUBSAMPLES = 4
"""Sample points per pixel and axis."""

_PETALS = ((0.0, -0.58), (0.5516, -0.1792), (0.3409, 0.4692), (-0.3409, 0.4692), (-0.5516, -0.1792))
_STAR = (
    (0.0, -1.0), (0.2469, -0.3398), (0.9511, -0.309), (0.3994, 0.1298), (0.5878, 0.809),
    (0.0, 0.42), (-0.5878, 0.809), (-0.3994, 0.1298), (-0.9511, -0.309), (-0.2469, -0.3398),
)  # fmt: skip
_FIR = (
    (0.0, -0.98), (0.45, -0.4), (0.25, -0.4), (0.65, 0.1), (0.4, 0.1), (0.85, 0.62),
    (-0.85, 0.62), (-0.4, 0.1), (-0.65, 0.1), (-0.25, -0.4), (-0.45, -0.4),
)  # fmt: skip


def _disc(x: Plane, y: Plane, cx: float, cy: float, rx: float, ry: float | None = None) -> Inside:
    return ((x - cx) / rx) ** 2 + ((y - cy) / (ry or rx)) ** 2 <= 1.0


def _box(x: Plane, y: Plane, left: float, top: float, right: float, bottom: float) -> Inside:
    return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)


def _polygon(x: Plane, y: Plane, *corners: tuple[float, float]) -> Inside:
    """Even-odd rule: a point is inside when a ray to the right crosses the outline an odd number of times."""
    inside = np.zeros(x.shape, bool)
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y1 != y2:
            inside ^= ((y < y1) != (y < y2)) & (x < (x2 - x1) / (y2 - y1) * (y - y1) + x1)
    return inside


def _heart(x: Plane, y: Plane) -> Inside:
    across, up = 1.2 * x, 0.1 - 1.2 * y
    rest = across**2 + up**2 - 1.0
    return rest * rest * rest <= across**2 * up**2 * up


def _cross(x: Plane, y: Plane) -> Inside:
    return _box(x, y, -0.3, -0.9, 0.3, 0.9) | _box(x, y, -0.9, -0.3, 0.9, 0.3)


def _house(x: Plane, y: Plane) -> Inside:
    roof = _polygon(x, y, (0.0, -0.95), (0.95, 0.0), (-0.95, 0.0))
    return roof | (_box(x, y, -0.68, 0.0, 0.68, 0.9) & ~_box(x, y, -0.18, 0.35, 0.18, 0.9))


def _fish(x: Plane, y: Plane) -> Inside:
    body = _disc(x, y, -0.17, 0.0, 0.78, 0.52) & ~_disc(x, y, -0.55, -0.12, 0.11)
    return body | _polygon(x, y, (0.4, 0.0), (0.95, -0.55), (0.95, 0.55))


def _flower(x: Plane, y: Plane) -> Inside:
    petals = np.zeros(x.shape, bool)
    for cx, cy in _PETALS:
        petals |= _disc(x, y, cx, cy, 0.37)
    return (petals | _disc(x, y, 0.0, 0.0, 0.4)) & ~_disc(x, y, 0.0, 0.0, 0.22)


def _boat(x: Plane, y: Plane) -> Inside:
    hull = _polygon(x, y, (-0.95, 0.35), (0.95, 0.35), (0.6, 0.9), (-0.6, 0.9))
    sails = _polygon(x, y, (0.06, -0.95), (0.8, 0.2), (0.06, 0.2))
    return hull | sails | _polygon(x, y, (-0.12, -0.7), (-0.12, 0.2), (-0.65, 0.2)) | _mast(x, y)


def _mast(x: Plane, y: Plane) -> Inside:
    return _box(x, y, -0.04, -0.95, 0.06, 0.4)


def _cup(x: Plane, y: Plane) -> Inside:
    body = _polygon(x, y, (-0.85, -0.75), (0.45, -0.75), (0.32, 0.8), (-0.72, 0.8))
    handle = _disc(x, y, 0.45, -0.08, 0.48) & ~_disc(x, y, 0.45, -0.08, 0.27) & (x > 0.3)
    return body | handle


OUTLINES: dict[str, Callable[[Plane, Plane], Inside]] = {
    "circle": lambda x, y: _disc(x, y, 0.0, 0.0, 0.92),
    "square": lambda x, y: _box(x, y, -0.84, -0.84, 0.84, 0.84),
    "triangle": lambda x, y: _polygon(x, y, (0.0, -0.92), (0.95, 0.78), (-0.95, 0.78)),
    "star": lambda x, y: _polygon(x, y, *_STAR),
    "heart": _heart,
    "ring": lambda x, y: _disc(x, y, 0.0, 0.0, 0.94) & ~_disc(x, y, 0.0, 0.0, 0.5),
    "cross": _cross,
    "moon": lambda x, y: _disc(x, y, 0.0, 0.0, 0.94) & ~_disc(x, y, 0.42, -0.12, 0.78),
    "house": _house,
    "fish": _fish,
    "tree": lambda x, y: _polygon(x, y, *_FIR) | _box(x, y, -0.16, 0.6, 0.16, 0.97),
    "flower": _flower,
    "boat": _boat,
    "mushroom": lambda x, y: (_disc(x, y, 0.0, 0.0, 0.95, 0.85) & (y <= 0.0)) | _box(x, y, -0.3, 0.0, 0.3, 0.9),
    "arrow": lambda x, y: _polygon(x, y, (0.1, -0.75), (0.96, 0.0), (0.1, 0.75)) | _box(x, y, -0.95, -0.25, 0.2, 0.25),
    "cup": _cup,
}  # fmt: skip


def _striped(x: Plane, y: Plane) -> Inside:
    return np.floor((x + y) * 18.0) % 2 == 0


def _dotted(x: Plane, y: Plane) -> Inside:
    across, down = x * 13.0, y * 13.0
    return _disc(across - np.floor(across), down - np.floor(down), 0.5, 0.5, 0.34)


def _checked(x: Plane, y: Plane) -> Inside:
    return (np.floor(x * 17.0) + np.floor(y * 17.0)) % 2 == 0


PATTERNS: dict[str, Callable[[Plane, Plane], Inside]] = {
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
}
"""Where the second tone goes. Measured in sides of the image, so a pattern is as fine on large things as on small."""


def _ramp(size: int, samples: int = 1) -> Float[np.ndarray, " points"]:
    """Midpoints of `size * samples` equal parts of [0, 1]."""
    return (np.arange(size * samples) + 0.5) / (size * samples)


def _coverage(inside: Inside) -> Float[np.ndarray, "rows columns"]:
    rows, columns = (length // SUBSAMPLES for length in inside.shape)
    counts = inside.reshape(rows, SUBSAMPLES, columns, SUBSAMPLES).sum((1, 3))
    return counts / float(SUBSAMPLES**2)


def _window(thing: Thing, size: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels that the tilted frame of `thing` can touch."""
    reach = 1.2 * thing.half
    low = [max(int((centre - reach) * size), 0) for centre in thing.centre]
    high = [min(int((centre + reach) * size) + 1, size) for centre in thing.centre]
    return slice(low[1], high[1]), slice(low[0], high[0])


def _masks(
    thing: Thing, size: int, rows: slice, columns: slice
) -> tuple[Plane, Float[np.ndarray, "pattern_height pattern_width"]]:
    """Coverage in [0, 1] of each pixel of the window by the thing, and the part of it that has the second tone."""
    points = _ramp(size, SUBSAMPLES)
    dx = points[None, columns.start * SUBSAMPLES : columns.stop * SUBSAMPLES] - thing.centre[0]
    dy = points[rows.start * SUBSAMPLES : rows.stop * SUBSAMPLES, None] - thing.centre[1]
    square = thing.tilt * thing.tilt
    cosine, sine = (1.0 - square) / (1.0 + square), 2.0 * thing.tilt / (1.0 + square)
    x, y = cosine * dx + sine * dy, cosine * dy - sine * dx
    side = -thing.half if thing.mirrored else thing.half
    inside = OUTLINES[thing.shape](x / side, y / thing.half)
    if thing.texture == "solid":
        return _coverage(inside), np.zeros((1, 1))
    return _coverage(inside), _coverage(inside & PATTERNS[thing.texture](x, y))


def _tones(thing: Thing) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """The thing's colour and its second tone: lighter for dark colours, darker for light ones."""
    colour = np.clip(np.asarray(COLOURS[thing.colour], float) + np.asarray(thing.shade, float), 0.0, 255.0)
    light = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 120.0
    return colour, colour * 0.6 if light else colour * 0.5 + 255.0 * 0.5


def _box_of(coverage: Plane, rows: slice, columns: slice) -> tuple[float, float, float, float]:
    down, across = np.flatnonzero(coverage.any(1)), np.flatnonzero(coverage.any(0))
    return (
        float(columns.start + across[0]),
        float(rows.start + down[0]),
        float(columns.start + across[-1] + 1),
        float(rows.start + down[-1] + 1),
    )


def render(scene: Scene, size: int) -> tuple[UInt8[np.ndarray, "size size 3"], list[tuple[float, float, float, float]]]:
    """The image of `scene` as RGB, and the tight box `(x1, y1, x2, y2)` in pixels of each of its things."""
    canvas = paint_background(scene, size)
    boxes = []
    for thing in scene.things:
        rows, columns = _window(thing, size)
        whole, second = _masks(thing, size, rows, columns)
        first_tone, second_tone = _tones(thing)
        patch = canvas[rows, columns]
        patch *= (1.0 - whole)[..., None]
        patch += (whole - second)[..., None] * first_tone + second[..., None] * second_tone
        boxes.append(_box_of(whole, rows, columns))
    return np.floor(np.clip(canvas, 0.0, 255.0) + 0.5).astype(np.uint8), boxes


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """PNG bytes of an RGB image."""
    done, data = cv2.imencode(".png", image[..., ::-1])
    if not done:
        raise RuntimeError("OpenCV could not encode a scene as PNG")
    return data.tobytes()
