"""One image: why it may have to go, and what it is recognised by (a digest of its pixels, a perceptual hash)."""

from __future__ import annotations

import dataclasses
import hashlib

import cv2
import numpy as np
from jaxtyping import UInt8, UInt64

from wenlan_jax.data import images
from wenlan_jax.prepare.clean.options import ImageChecks

_PARTS = 4
COLOURS = 3 * _PARTS**2
"""Numbers in `mean_colours`."""
Pixels = UInt8[np.ndarray, "height width 3"]


@dataclasses.dataclass(frozen=True)
class CheckedImage:
    """A decoded image and its shortcomings; `pixels` is None when it cannot be decoded, `reason` empty if fine."""

    pixels: Pixels | None
    reason: str = ""
    detail: str = ""


def look(data: bytes, limits: ImageChecks) -> CheckedImage:
    """Decodes `data` and holds it against the limits."""
    try:
        pixels = images.decode(data)
    except images.CorruptImage as error:
        return CheckedImage(None, "corrupt_image", str(error))
    height, width = pixels.shape[:2]
    short, long = sorted((height, width))
    size = f"{width}x{height}"
    if short < limits.min_side:
        return CheckedImage(pixels, "small_image", size)
    if long > limits.max_side:
        return CheckedImage(pixels, "large_image", size)
    if long > short * limits.max_aspect:
        return CheckedImage(pixels, "aspect_of_image", size)
    deviation = float(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).std())
    if deviation < limits.min_deviation:
        return CheckedImage(pixels, "constant_image", f"deviation {deviation:.2f}")
    return CheckedImage(pixels)


def digest(pixels: Pixels) -> UInt64[np.ndarray, " 2"]:
    """128 bits of the pixels and their shape: equal for files that decode to the same image."""
    hashed = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    hashed.update(np.ascontiguousarray(pixels).data)
    return np.frombuffer(hashed.digest(), "<u8").astype(np.uint64)


def perceptual_hash(pixels: Pixels, side: int) -> UInt64[np.ndarray, " words"]:
    """`side` squared bits of the low frequencies of an image; rescaling and recompression change few of them.

    The image is shrunk to a grey square of 4 `side`; a bit says whether a coefficient of its cosine transform, of
    the lowest `side` squared, is above their median (Zauner, "Implementation and benchmarking of perceptual image hash
    functions", 2010). This is what imagehash.phash computes, without decoding again and without SciPy.
    """
    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (4 * side, 4 * side), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[:side, :side].ravel()
    # The first coefficient is the mean grey, which says nothing; the median is that of the others.
    return np.packbits(low > np.median(low[1:])).view("<u8").astype(np.uint64)


def mean_colours(pixels: Pixels) -> UInt8[np.ndarray, " colours"]:
    """The mean RGB values of 4x4 parts of an image."""
    return np.asarray(cv2.resize(pixels, (_PARTS, _PARTS), interpolation=cv2.INTER_AREA).ravel())


def thumbnail(pixels: Pixels, side: int) -> bytes:
    """A JPEG of the image within a grey square of `side` pixels."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    canvas = np.full((side, side, 3), 128, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = small
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))[1].tobytes())
