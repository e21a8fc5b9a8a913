"""Images for the measurement of loaders: made here, so that it needs no data, and like photographs to a decoder.

A photograph's spectrum falls off with the frequency, which decides how large its JPEG is and how long decoding takes:
the images are noise of several octaves, with the amplitude of each as large as its wavelength, and objects with sharp
edges in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from wenlan_jax.data import records
from wenlan_jax.prepare import tfds_files

QUALITY = 90
"""Of the JPEGs; 468 x 401 pixels then take about 50 kB."""

OCTAVES = 7
GRAIN = 4.0
"""Standard deviation of a sensor's noise, in levels: it makes up half of the file."""

FIRST_HAN = 0x4E00
HAN = 2000
"""Characters that the captions consist of, from `FIRST_HAN` on."""


def image(width: int, height: int, random: np.random.Generator) -> UInt8[np.ndarray, "height width 3"]:
    """Makes an image of noise with a photograph's spectrum, and a dozen ellipses.

    Args:
        width: in pixels.
        height: in pixels.
        random: what is drawn from.

    Returns:
        RGB.
    """
    pixels = np.full((height, width, 3), 128, np.float32)
    for octave in range(OCTAVES):
        cells = 4 << octave
        noise = random.standard_normal((cells, cells, 3)).astype(np.float32)
        pixels += 0.5**octave * 64 * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        centre = (int(random.integers(width)), int(random.integers(height)))
        axes = (int(random.integers(4, width // 6)), int(random.integers(4, height // 6)))
        colour = tuple(float(level) for level in random.uniform(0, 255, 3))
        shape = cv2.ellipse(pixels.copy(), centre, axes, float(random.uniform(0, 180)), 0, 360, colour, -1)
        pixels = 0.5 * pixels + 0.5 * shape
    pixels += GRAIN * random.standard_normal((height, width, 1)).astype(np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def caption(random: np.random.Generator) -> str:
    """Makes a text of 8 to 30 random Chinese characters."""
    return "".join(chr(FIRST_HAN + int(code)) for code in random.integers(HAN, size=random.integers(8, 31)))


def make_records(count: int, width: int, height: int, seed: int) -> Iterator[records.Record]:
    """Makes records with a JPEG and a caption each.

    Args:
        count: how many.
        width: of the images, in pixels.
        height: of the images, in pixels.
        seed: of what is drawn.

    Yields:
        The records.
    """
    random = np.random.default_rng(seed)
    for number in range(count):
        jpeg = cv2.imencode(".jpg", image(width, height, random), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        text = records.Text("sur_text", "zh", caption(random))
        yield records.Record(f"{number:06}", jpeg, width, height, "bench", (text,))


def write(directory: Path, count: int, width: int, height: int, seed: int) -> int:
    """Writes records as a packed data set (`records`), and their JPEGs with captions.txt (`files`).

    Args:
        directory: where both go.
        count: how many records.
        width: of the images, in pixels.
        height: of the images, in pixels.
        seed: of what is drawn.

    Returns:
        The bytes of all JPEGs.
    """
    files, size, captions = directory / "files", 0, []
    files.mkdir(parents=True)

    def made() -> Iterator[records.Record]:
        nonlocal size
        for record in make_records(count, width, height, seed):
            (files / f"{record.id}.jpg").write_bytes(record.image)
            captions.append(record.texts[0].text)
            size += len(record.image)
            yield record

    tfds_files.write(directory / "records", {"train": made()}, "images of `wenlan bench --data`")
    (files / "captions.txt").write_text("\n".join(captions), encoding="utf-8")
    return size


def write_vocabulary(path: Path) -> None:
    """Writes a vocab.txt of the captions' characters."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path.write_text("\n".join([*special, *(chr(FIRST_HAN + code) for code in range(HAN))]), encoding="utf-8")
