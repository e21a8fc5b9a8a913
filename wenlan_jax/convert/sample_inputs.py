"""Image files and raw texts that an export is tried with, and what the training makes of them.

The files are of the kinds that decoders treat differently: JPEGs so large that they are decoded at a fraction, turned
by EXIF or grey, and PNGs with palettes, transparency, 16 bits or one. The texts are in seven languages and have what
tokenizers disagree on.
"""

from __future__ import annotations

import collections
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from wenlan_jax.data import images
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.prepare import raw_images
from wenlan_jax.tasks import experiment

TEXTS = (
    "一只黑白相间的猫坐在红色沙发上",
    "A red circle, left of the yellow square!",
    "Ein großes grünes Dreieck über dem Würfel",
    "l'été, un cœur bleu près d'une étoile",
    "žlutý kůň běží přes louku",
    "赤いりんごとガラスのコップ",
    "빨간 사과와 파란 컵",
    "[SEP] 不是 [CLS] a [MASK] <s> special </s> [PAD] <mask> piece",
    "  spaces\tand\nlines  and\u3000wide ＡＢＣ１２３ ﬁ \U00020000 👍🏽",
    "很长的文字" * 60,
    "",
)
"""Raw texts, the first seven in zh, en, de, fr, cs, ja, ko."""

_EXIF_TURNED = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
"""A JPEG segment that says: turn a quarter to see it upright."""


class SampleInputs(NamedTuple):
    """What towers take.

    Attributes:
        square: uint8 (files, side, side, 3), RGB.
        ids: (texts, length).
        mask: (texts, length).
    """

    square: np.ndarray
    ids: np.ndarray
    mask: np.ndarray


def write_images(folder: Path, side: int) -> list[Path]:
    """Writes image files to try an export with.

    Args:
        folder: where they go.
        side: of the square that the model takes, in pixels.

    Returns:
        Their paths.
    """
    paths = []
    for name, data in _images(side):
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    return paths


def prepared(config: experiment.Config, tokenizer: Tokenizer, files: list[Path]) -> SampleInputs:
    """Prepares image files and `TEXTS` as packing and training do.

    Args:
        config: the configuration.
        tokenizer: for the texts.
        files: the image files.

    Returns:
        What towers take.
    """
    side, data = config.data.image_size, config.data
    squares = np.empty((len(files), side, side, 3), np.uint8)
    for square, file in zip(squares, files, strict=True):
        stored = raw_images.checked(file.read_bytes(), raw_images.ImageOptions(), collections.Counter())
        images.read_square(stored.data, data.antialias, data.averaging == "exact", square)
    return SampleInputs(squares, *tokenizer.encode(TEXTS, data.text_length))


def _images(side: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents."""
    large, small = _drawn(side * 43 // 10, side * 23 // 10), _drawn(side * 5 // 4, side * 7 // 5)
    yield "large.jpg", _encoded(".jpg", large)
    turned = _encoded(".jpg", small)
    yield "turned.jpg", turned[:2] + _EXIF_TURNED + turned[2:]
    yield "grey.jpg", _encoded(".jpg", large[..., 0])
    yield "tiny.jpg", _encoded(".jpg", _drawn(max(8, side // 2), max(8, side // 3)))
    yield "colour.png", _encoded(".png", small)
    deep = small.astype(np.uint16) * 257 + np.uint16(99)
    yield "deep.png", _encoded(".png", np.minimum(deep, 65200))
    yield "deep_grey.png", _encoded(".png", np.minimum(deep[..., 0], 65200))
    yield "clear.png", _encoded(".png", np.dstack([small, small[..., 0]]))
    yield "clear.webp", _encoded(".webp", np.dstack([small, small[..., 0]]), cv2.IMWRITE_WEBP_QUALITY, 101)
    yield "clear_grey.png", _png(small[..., :2], kind=4)
    yield "black_white.png", _encoded(".png", (small[..., 0] > 127) * np.uint8(255), cv2.IMWRITE_PNG_BILEVEL, 1)
    palette = {b"PLTE": bytes(range(192)), b"tRNS": bytes(range(0, 256, 4))}
    yield "palette.png", _png(small[..., :1] // 4, kind=3, chunks=palette)


def _drawn(height: int, width: int) -> np.ndarray:
    """Smooth noise, uint8 (height, width, 3)."""
    coarse = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _encoded(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


def _png(pixels: np.ndarray, kind: int, chunks: dict[bytes, bytes] | None = None) -> bytes:
    """A PNG file of 8 bits of a colour type that OpenCV does not write (PNG, section 11.2.2)."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    content = {b"IHDR": header, **(chunks or {}), b"IDAT": zlib.compress(rows), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in content.items())


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def levels(pixel_values: Any, config: experiment.Config) -> np.ndarray:
    """Turns normalised images (files, 3, side, side) into levels of 0 to 255, (files, side, side, 3)."""
    mean, std = (np.asarray(values, np.float32) for values in (config.augment.mean, config.augment.std))
    return (np.asarray(pixel_values, np.float32).transpose(0, 2, 3, 1) * std + mean) * np.float32(255)
