"""From encoded bytes to pixels on the host: decoding, resizing, and boxes in the unit square.

Pixels are uint8 RGB throughout. Normalisation and augmentation are the accelerator's work (`augment.py`).
"""

from __future__ import annotations

import math
import zlib

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Num, UInt8

from wenlan_jax.data import headers
from wenlan_jax.util.errors import WenlanError

_JPEG_START = b"\xff\xd8"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = frozenset((b"sRGB", b"gAMA", b"cHRM", b"iCCP"))
_TIFF_STARTS = (b"II*\0", b"MM\0*")
# EXIF orientation -> mirror left and right after turning a quarter anticlockwise so many times.
TURNS = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}


class CorruptImage(WenlanError, ValueError):  # noqa: N818
    """An image that cannot be decoded whole."""


def _check_jpeg(data: bytes) -> None:
    """Walks the segments to the end-of-image marker; a marker inside an EXIF thumbnail does not count."""
    if all(marker != headers.JPEG_END for marker in headers.jpeg_markers(data)):
        raise CorruptImage(f"truncated JPEG: no end-of-image marker in its {len(data)} bytes")


def _checked_png(data: bytes) -> bytes:
    """Walks the chunks to IEND and compares the checksum of each; the PNG without its notes on colour spaces.

    OpenCV applies none of these, and libpng prints warnings of many.
    """
    kept: list[bytes] = []
    position, start = len(_PNG_START), 0
    steps = headers.steps(data)
    while position + 12 <= len(data):
        next(steps)
        length = int.from_bytes(data[position : position + 4], "big")
        kind, end = data[position + 4 : position + 8], position + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise CorruptImage(f"damaged PNG: wrong checksum in the {kind!r} chunk at byte {position}")
        if kind == b"IEND":
            return b"".join([*kept, data[start:]]) if kept else data
        if kind in _PNG_COLOURS:
            kept.append(data[start:position])
            start = end + 4
        position = end + 4
    raise CorruptImage(f"truncated PNG: no IEND chunk in its {len(data)} bytes")


def _check_webp(data: bytes) -> None:
    expected = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < expected:
        raise CorruptImage(f"truncated WebP: {len(data)} of {expected} bytes")


def _complete(data: bytes) -> bytes:
    """What to decode of a file. Raises `CorruptImage` for one that stops early, of which some OpenCV show a part.

    Also for one whose decoding would take far longer than its size tells.
    """
    if not data:
        raise CorruptImage("empty file")
    try:
        headers.check_quick(data)
        if data.startswith(_JPEG_START):
            _check_jpeg(data)
        elif data.startswith(_PNG_START):
            return _checked_png(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            _check_webp(data)
    except headers.UnknownSize as error:
        raise CorruptImage(str(error)) from error
    return data


def _to_eight_bits(pixels: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return cv2.convertScaleAbs(pixels, alpha=1 / 257)  # the nearest, and no 16-bit value lies between two
    raise CorruptImage(f"pixels of type {pixels.dtype}; 8 or 16 bits per channel are supported")


BAND = 2**18
"""Pixels that are laid on white at once, so that its steps need little memory whatever the size of an image."""


def _on_white(pixels: UInt8[np.ndarray, "height width 4"]) -> UInt8[np.ndarray, "height width 3"]:
    height, width = pixels.shape[:2]
    laid = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND // width)
    for start in range(0, height, rows):
        _lay(pixels[start : start + rows], laid[start : start + rows])
    return laid


def _lay(pixels: UInt8[np.ndarray, "rows width 4"], out: UInt8[np.ndarray, "rows width 3"]) -> None:
    alpha = pixels[..., 3].astype(np.uint16)
    white = 255 * (255 - alpha) + 127
    for channel in range(3):
        out[..., channel] = (pixels[..., channel] * alpha + white) // 255  # at most 255 * 255 + 127: 16 bits hold it


def decode(data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes JPEG, PNG or WebP (and what else OpenCV reads) to RGB.

    Transparent images are laid on white, grey ones get three channels, 16 bits become 8. The EXIF orientation is
    ignored, as in the released BriVL code: boxes, width and height refer to the stored pixels.

    Args:
        data: the file's bytes.

    Returns:
        The pixels.

    Raises:
        CorruptImage: for data that is cut short or damaged, in so far as the format tells.
    """
    return _rgb(_complete(data))


_JPEG_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
"""libjpeg itself orders the channels, and has no transparency and no 16 bits to keep."""

_REDUCED = {
    factor: _JPEG_FLAGS | (flags & ~cv2.IMREAD_COLOR)
    for factor, flags in (
        (8, cv2.IMREAD_REDUCED_COLOR_8),
        (4, cv2.IMREAD_REDUCED_COLOR_4),
        (2, cv2.IMREAD_REDUCED_COLOR_2),
    )
}


def _rgb(data: bytes, factor: int = 1) -> UInt8[np.ndarray, "height width 3"]:
    """The image, a JPEG at 1 / `factor` of its sides."""
    is_jpeg = data.startswith(_JPEG_START)
    try:
        pixels = cv2.imdecode(
            np.frombuffer(data, np.uint8), _REDUCED.get(factor, _JPEG_FLAGS) if is_jpeg else cv2.IMREAD_UNCHANGED
        )
    except cv2.error as error:
        raise CorruptImage(f"not decodable: {error}") from error
    if pixels is None:
        raise CorruptImage(f"not decodable; the {len(data)} bytes begin with {data[:8]!r}")
    if is_jpeg:
        return pixels
    pixels = _to_eight_bits(pixels)
    if data.startswith(_TIFF_STARTS):
        pixels = _as_stored(data, pixels)
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    pixels = _on_white(pixels) if pixels.shape[2] == 4 else pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _as_stored(data: bytes, pixels: UInt8[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*turned"]:
    """The pixels of a TIFF as they are stored: OpenCV turns those, whatever it is told."""
    try:
        turns, mirror = TURNS[headers.read(data).orientation]
    except headers.UnknownSize as error:
        raise CorruptImage(str(error)) from error
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirror else pixels, -turns))


def resize(
    image: UInt8[np.ndarray, "height width 3"],
    size: int,
    antialias: bool,
    out: UInt8[np.ndarray, "size size 3"] | None = None,
) -> UInt8[np.ndarray, "size size 3"]:
    """Resizes to a square, without keeping the aspect ratio.

    Args:
        image: RGB.
        size: side of the square in pixels.
        antialias: average every side that shrinks over its area; without, samples are plain bilinear (half-pixel
            centres) as in the released BriVL code. Growing sides are bilinear in both.
        out: an array to write into; None for a new one.

    Returns:
        The square.
    """
    square = np.empty((size, size, 3), np.uint8) if out is None else out
    _resize(image, antialias, square)
    return square


def _resize(image: UInt8[np.ndarray, "h w 3"], antialias: bool, out: UInt8[np.ndarray, "height width 3"]) -> None:
    """`resize` into the sides that `out` has."""
    rows, columns = out.shape[:2]
    height, width = image.shape[:2]
    if antialias and (height > rows or width > columns):
        image = cv2.resize(image, (min(width, columns), min(height, rows)), interpolation=cv2.INTER_AREA)
    if image.shape == out.shape:
        out[:] = image
    else:
        cv2.resize(image, (columns, rows), dst=out, interpolation=cv2.INTER_LINEAR)


SPACING = 1.5
"""Stored pixels between the samples that `read_square` averages at most: each pixel then counts about alike."""


def read_square(
    data: bytes, antialias: bool, exact: bool, out: UInt8[np.ndarray, "size size 3"], enlarge: bool = True
) -> tuple[int, int]:
    """Decodes an image and resizes it into a row of a batch.

    Args:
        data: the file's bytes.
        antialias: see `resize`.
        exact: computes `resize(decode(data), ...)`. Otherwise, where `antialias` shrinks, area means come quicker: a
            JPEG that is at least 2, 4 or 8 times as large is decoded at that fraction by libjpeg itself, and the means
            are those of bilinear samples at most `SPACING` apart, a whole number a pixel.
        out: the square to write into.
        enlarge: whether a smaller side grows. Without it, it stays as it is: the image is in the upper left of `out`,
            the rest is 0.

    Returns:
        Height and width of the stored image, in pixels.

    Raises:
        CorruptImage: see `decode`.
    """
    data = _complete(data)
    size = len(out)
    height, width = (jpeg_sides(data) if antialias and not exact else None) or (0, 0)
    factor = next((f for f in _REDUCED if min(height, width) >= f * size), 1)
    pixels = _rgb(data, factor)
    if factor == 1:
        height, width = pixels.shape[:2]
    _write_square(pixels, height, width, factor, antialias, exact, out, enlarge)
    return height, width


def write_square(
    pixels: UInt8[np.ndarray, "height width 3"],
    antialias: bool,
    exact: bool,
    out: UInt8[np.ndarray, "size size 3"],
    enlarge: bool = True,
) -> tuple[int, int]:
    """Resizes a decoded image into a row of a batch, as `read_square` does.

    Args:
        pixels: RGB.
        antialias: see `resize`.
        exact: see `read_square`.
        out: the square to write into.
        enlarge: see `read_square`.

    Returns:
        Height and width of the image, in pixels.
    """
    height, width = pixels.shape[:2]
    _write_square(pixels, height, width, 1, antialias, exact, out, enlarge)
    return height, width


def _write_square(
    pixels: UInt8[np.ndarray, "h w 3"],
    height: int,
    width: int,
    factor: int,
    antialias: bool,
    exact: bool,
    out: UInt8[np.ndarray, "size size 3"],
    enlarge: bool,
) -> None:
    """Resizes an image of `height` by `width`, of which `pixels` are decoded at a fraction of 1 / `factor`."""
    target = out if enlarge else out[:height, :width]
    out[:height, target.shape[1] :] = 0
    out[target.shape[0] :] = 0
    if antialias and not exact:
        _average(pixels, width / factor, height / factor, target)
    else:
        _resize(pixels, antialias, target)


def _average(
    pixels: UInt8[np.ndarray, "h w 3"], width: float, height: float, out: UInt8[np.ndarray, "rows columns 3"]
) -> None:
    """Area means of the `width` by `height` that `pixels` cover, whose last row and column may reach beyond it."""
    rows, columns = (
        max(1, math.ceil(side / wanted / SPACING)) * wanted
        for side, wanted in zip((height, width), out.shape[:2], strict=True)
    )
    if (rows, columns) == out.shape[:2] and pixels.shape[:2] == (height, width):
        _resize(pixels, False, out)
        return
    # Scales, not a target size: libjpeg rounds the sides of a reduced image up, which would stretch it.
    scaled = cv2.resize(pixels, None, fx=columns / width, fy=rows / height, interpolation=cv2.INTER_LINEAR)
    cv2.resize(scaled[:rows, :columns], out.shape[1::-1], dst=out, interpolation=cv2.INTER_AREA)


def jpeg_sides(data: bytes) -> tuple[int, int] | None:
    """Reads height and width from the frame header of a JPEG.

    Args:
        data: the file's bytes.

    Returns:
        Height and width in pixels; None if `data` is no JPEG or has no such header.
    """
    if not data.startswith(_JPEG_START):
        return None
    try:
        header = headers.read(data)
    except headers.UnknownSize:
        return None
    return header.height, header.width


def normalise_boxes(
    boxes: Num[np.ndarray, "boxes 4"], width: int, height: int, limit: int
) -> tuple[Float32[np.ndarray, "limit 4"], Bool[np.ndarray, " limit"]]:
    """Brings boxes to units of the image's sides.

    Boxes are clipped to the image; those without area inside it (or with a NaN) are left out. Since `resize` maps the
    whole image to the whole square, the result also fits the resized image.

    Args:
        boxes: (x1, y1, x2, y2) in pixels of the stored image.
        width: of the stored image, in pixels.
        height: of the stored image, in pixels.
        limit: how many boxes are kept.

    Returns:
        The first `limit` boxes, missing rows zero, and which rows are boxes.
    """
    scaled: Float[np.ndarray, "boxes 4"] = np.asarray(boxes, np.float64).reshape(-1, 4)
    scaled = np.clip(scaled / (width, height, width, height), 0.0, 1.0)
    kept = scaled[(scaled[:, 2] > scaled[:, 0]) & (scaled[:, 3] > scaled[:, 1])][:limit]
    result = np.zeros((limit, 4), np.float32)
    result[: len(kept)] = kept
    return result, np.arange(limit) < len(kept)
