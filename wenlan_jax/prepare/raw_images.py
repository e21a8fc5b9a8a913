"""One encoded image on its way into a record: fetched, refused where it is a bomb or broken, changed where it must be.

An image is stored as the bytes it came as, unless other decoders would show something else: CMYK, 16 bits a channel,
animations and unusual formats become plain 8-bit RGB of the first frame.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from wenlan_jax.config.options import option
from wenlan_jax.data import headers, images
from wenlan_jax.data.records import Region
from wenlan_jax.prepare.image_places import Root
from wenlan_jax.prepare.raw_items import Box, ReadError, Reason, Rejected, printable
from wenlan_jax.prepare.regions import npz
from wenlan_jax.prepare.regions.detections import DetectionError

Pixels = UInt8[np.ndarray, "height width 3"]

MAX_BYTES = 1 << 28
"""Of one encoded image; a larger file is not read."""
PIXEL_BYTES = 4
"""Of a pixel of four channels of 8 bits; the pixels of one that is deeper weigh more."""
JPEG_QUALITY = 95
_STORED = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """What happens to images."""

    max_side: int | None = option(None, "shrink larger images to this long side", low=1, metavar="PIXELS")
    max_pixels: int = option(
        100_000_000,
        f"refuse images of more, or of more bytes than {PIXEL_BYTES} for each, unopened",
        low=1,
        metavar="PIXELS",
    )
    exif: Literal["ignore", "apply"] = option("ignore", "whether to turn images, and boxes with them, as EXIF says")


@dataclasses.dataclass(frozen=True)
class RecordImage:
    """An image as it goes into a record, and how its pixels lie to those it came with.

    Attributes:
        data: the encoded bytes.
        width: in pixels.
        height: in pixels.
        stored_width: of the image as it came.
        stored_height: of the image as it came.
        orientation: EXIF's, if it was applied.
    """

    data: bytes = dataclasses.field(repr=False)
    width: int
    height: int
    stored_width: int
    stored_height: int
    orientation: int = 1

    def box(self, box: Box) -> Box:
        """Converts a box in pixels of the image as it came to pixels of this one."""
        x1, y1, x2, y2 = (
            side / full for side, full in zip(box, (self.stored_width, self.stored_height) * 2, strict=True)
        )
        turns, mirror = images.TURNS[self.orientation]
        for _ in range(turns):
            x1, y1, x2, y2 = y1, 1 - x2, y2, 1 - x1
        if mirror:
            x1, x2 = 1 - x2, 1 - x1
        return (x1 * self.width, y1 * self.height, x2 * self.width, y2 * self.height)


def fetch(root: Root, names: Sequence[str]) -> tuple[str, bytes]:
    """Reads the first image that can be read.

    Args:
        root: where images are named from.
        names: below it, tried in order.

    Returns:
        The name and the bytes.

    Raises:
        Rejected: if none can be read, or it is empty.
    """
    first: ReadError | None = None
    for name in names:
        try:
            data = root.read(name, MAX_BYTES + 1)
        except ReadError as error:
            first = first or error
            continue
        check_not_empty(data, f"{printable(name)}: ")
        return name, data
    raise Rejected(Reason.MISSING_IMAGE, printable(str(first))) from first


def check_not_empty(data: bytes, where: str = "") -> None:
    """Checks that an image has bytes.

    Args:
        data: its bytes.
        where: names it in the message.

    Raises:
        Rejected: if it has none.
    """
    if not data:
        raise Rejected(Reason.EMPTY_IMAGE, f"{where}an image of 0 bytes")


def boxes_beside(root: Root, image: str) -> tuple[Region, ...]:
    """Reads the boxes of the .npz file beside an image.

    Args:
        root: where images are named from.
        image: the name of the image.

    Returns:
        The boxes under `bbox`, (boxes, 4) in pixels; none where there is no file.

    Raises:
        Rejected: for a file that is no such file.
    """
    for name in (os.path.splitext(image)[0] + ".npz", image + ".npz"):
        if not root.has(name):
            continue
        try:
            data = root.read(name, MAX_BYTES)
        except ReadError:
            continue
        try:
            boxes = npz.brivl_boxes(npz.arrays_in(data, name), name).boxes
        except DetectionError as error:
            raise Rejected(Reason.BAD_BOX_FILE, str(error)) from error
        finite = boxes[np.isfinite(boxes).all(axis=1)]
        return tuple(Region((x1, y1, x2, y2)) for x1, y1, x2, y2 in finite.tolist())
    return ()


def checked(data: bytes, options: ImageOptions, fixes: collections.Counter[str]) -> RecordImage:
    """Decodes an image to see that it is whole, and changes what must not be stored so.

    Args:
        data: its bytes.
        options: what happens to images.
        fixes: counts the changes; changed in place.

    Returns:
        The image as it is stored.

    Raises:
        Rejected: for an image that is a bomb or broken.
    """
    header = _header(data, options)
    pixels = decode(data, header)
    height, width = pixels.shape[:2]
    turned = options.exif == "apply" and header.orientation != 1
    changes = {
        "image_cmyk_converted": header.cmyk,
        "image_deep_converted": header.deep,
        "image_first_frame": header.animated,
        "image_exif_applied": turned,
    }
    fixes["image_exif_ignored"] += header.orientation != 1 and not turned
    scale = min(1.0, options.max_side / max(height, width)) if options.max_side else 1.0
    if turned:
        turns, mirror = images.TURNS[header.orientation]
        pixels = np.rot90(pixels, turns)
        pixels = np.ascontiguousarray(pixels[:, ::-1] if mirror else pixels)
    if scale < 1.0:
        pixels = _shrink(pixels, scale)
        fixes["image_shrunk"] += 1
    fixes.update({name: 1 for name, changed in changes.items() if changed})
    if scale < 1.0 or any(changes.values()) or header.kind not in _STORED:
        fixes["image_reencoded"] += scale == 1.0
        data = _encode(pixels, lossy=header.kind == "jpeg" or (header.kind == "webp" and scale < 1.0))
    return RecordImage(data, pixels.shape[1], pixels.shape[0], width, height, header.orientation if turned else 1)


def _header(data: bytes, options: ImageOptions) -> headers.Header:
    if len(data) > MAX_BYTES:
        raise Rejected(Reason.OVERSIZED_IMAGE, f"more than {MAX_BYTES} bytes")
    try:
        header = headers.read(data)
    except headers.UnknownSize as error:
        raise Rejected(Reason.CORRUPT_IMAGE, str(error)) from error
    check_size(header, options.max_pixels, "; see --max-pixels")
    return header


def check_size(header: headers.Header, max_pixels: int, remedy: str = "") -> None:
    """Checks that an image is not too large to be decoded.

    Args:
        header: of the image.
        max_pixels: that it may have, and bytes for as many of 8 bits a channel.
        remedy: the end of the message.

    Raises:
        Rejected: if it is.
    """
    size, most = f"{header.width} x {header.height} pixels", max_pixels * PIXEL_BYTES
    if header.pixels > max_pixels:
        raise Rejected(Reason.OVERSIZED_IMAGE, f"{size}, more than {max_pixels}{remedy}")
    if header.decoded_bytes > most:
        told = f"{size} of {header.pixel_bytes} bytes each, more than {most} bytes"
        raise Rejected(Reason.OVERSIZED_IMAGE, f"{told}{remedy}")


def decode(data: bytes, header: headers.Header) -> Pixels:
    """Decodes an image, which must have as many pixels as its header says.

    Args:
        data: its bytes.
        header: of the image.

    Returns:
        RGB.

    Raises:
        Rejected: for an image that is broken.
    """
    try:
        pixels = images.decode(data)
    except images.CorruptImage as error:
        raise Rejected(Reason.CORRUPT_IMAGE, str(error)) from error
    except MemoryError as error:
        raise Rejected(Reason.OVERSIZED_IMAGE, "too large for the memory") from error
    height, width = pixels.shape[:2]
    told = (header.width, header.height)
    # The headers of these kinds tell the largest of several sizes.
    if width * height > header.pixels or (header.kind not in ("gif", "avif") and (width, height) != told):
        raise Rejected(
            Reason.CORRUPT_IMAGE, f"the header says {told[0]} x {told[1]} pixels, there are {width} x {height}"
        )
    return pixels


def _shrink(pixels: Pixels, scale: float) -> UInt8[np.ndarray, "shrunk_height shrunk_width 3"]:
    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _encode(pixels: Pixels, lossy: bool) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if lossy else []
    return cv2.imencode(".jpg" if lossy else ".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()
