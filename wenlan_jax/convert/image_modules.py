"""Images as the WenLan (BriVL) towers of this folder want them. This file needs NumPy and OpenCV, nothing of ours.

    import wenlan_images  # this file, which an export of wenlan_jax holds under that name

    images = wenlan_images.load("folder")        # reads preprocessor_config.json
    pixels = images.read(["photo.jpg"])            # float32 (images, 3, side, side)

Files are decoded and resized as the training did, without keeping the aspect ratio: transparent images are laid on
white, 16 bits become 8, and the EXIF orientation is ignored.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SETTINGS = "preprocessor_config.json"
SPACING = 1.5
"""Stored pixels between the samples of a fast average at most."""

_JPEG = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
}


class Images:
    """Reads image files. settings: what preprocessor_config.json holds."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def read(self, files: Sequence[str | Path]) -> np.ndarray:
        """The normalised pixels of files, float32 (images, 3, side, side), red first."""
        mean, std = (np.array(self.settings[name], np.float32) for name in ("image_mean", "image_std"))
        squares = np.stack([self.square(Path(file).read_bytes()) for file in files]).astype(np.float32)
        return np.ascontiguousarray(((squares / np.float32(255) - mean) / std).transpose(0, 3, 1, 2))

    def square(self, data: bytes) -> np.ndarray:
        """The RGB pixels of an encoded image, uint8 (side, side, 3)."""
        data = _stored(data)
        size, antialias = self.settings["size"]["height"], self.settings["antialias"]
        fast = antialias and self.settings["averaging"] == "fast"
        height, width, _ = _frame(data) if fast and data.startswith(b"\xff\xd8") else (0, 0, 0)
        factor = next((f for f in _REDUCED if min(height, width) >= f * size), 1)
        pixels = _decoded(data, factor)
        if factor == 1:
            height, width = pixels.shape[:2]
        square = _averaged(pixels, width / factor, height / factor, size) if fast else _resized(pixels, size, antialias)
        return square[:, :, ::-1]


def load(folder: str | Path) -> Images:
    """The reader of an exported folder."""
    return Images(json.loads((Path(folder) / SETTINGS).read_text(encoding="utf-8")))


def _frame(data: bytes) -> tuple[int, int, int]:
    """Height, width and channels in the frame header of a JPEG (ITU T.81, B.2.2); zeros where there is none."""
    position = 2
    while 0 <= position < len(data) - 9:
        marker = data[position + 1]
        if data[position] != 0xFF:
            position = data.find(b"\xff", position)
        elif marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, channels = struct.unpack_from(">HHB", data, position + 5)
            return height, width, channels
        else:
            position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    return 0, 0, 0


def _stored(data: bytes) -> bytes:
    """The file as the training data has it: a JPEG in CMYK once more a JPEG, in RGB and of quality 95."""
    if not data.startswith(b"\xff\xd8") or _frame(data)[2] != 4:
        return data
    return cv2.imencode(".jpg", _decoded(data, 1), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _decoded(data: bytes, factor: int) -> np.ndarray:
    """BGR pixels of 8 bits; a JPEG at 1 / `factor` of its sides."""
    flags = _REDUCED.get(factor, _JPEG) if data.startswith(b"\xff\xd8") else cv2.IMREAD_UNCHANGED
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if pixels is None:
        raise ValueError(f"not an image that OpenCV reads; its {len(data)} bytes begin with {data[:8]!r}")
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels of type {pixels.dtype}; 8 or 16 bits per channel are supported")
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return _on_white(pixels) if pixels.shape[2] == 4 else pixels


def _on_white(pixels: np.ndarray) -> np.ndarray:
    colour, alpha = pixels[..., :3].astype(np.uint32), pixels[..., 3:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _resized(pixels: np.ndarray, size: int, antialias: bool) -> np.ndarray:
    """Sides that shrink are averaged over the area of each new pixel if `antialias`; all else is bilinear."""
    height, width = pixels.shape[:2]
    if antialias and (height > size or width > size):
        pixels = cv2.resize(pixels, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)


def _averaged(pixels: np.ndarray, width: float, height: float, size: int) -> np.ndarray:
    """Means of bilinear samples over the `width` by `height` that `pixels` cover."""
    rows, columns = (max(1, math.ceil(side / size / SPACING)) * size for side in (height, width))
    if (rows, columns) == (size, size) and pixels.shape[:2] == (height, width):
        return _resized(pixels, size, False)
    scaled = cv2.resize(pixels, None, fx=columns / width, fy=rows / height, interpolation=cv2.INTER_LINEAR)
    return cv2.resize(scaled[:rows, :columns], (size, size), interpolation=cv2.INTER_AREA)
