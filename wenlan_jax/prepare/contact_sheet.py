"""A contact sheet: small images with their boxes, as one JPEG, and as a page that has the captions, too.

The page is one HTML file that loads nothing, like the retrieval gallery. Captions stand on the
page alone: OpenCV draws no Chinese.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from wenlan_jax.data import images
from wenlan_jax.data.records import Region, Text
from wenlan_jax.util import atomic_files, html_page

IMAGE_NAME, PAGE_NAME = "contact_sheet.jpg", "contact_sheet.html"
SIDE = 160
"""Pixels of a cell, which an image is fitted into."""

_COLUMNS, _MARGIN, _LABEL = 8, 6, 16
_BOXES, _TEXTS = 36, 16  # shown of one image
_COLOURS = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (255, 127, 14), (148, 103, 189), (23, 190, 207))
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 88]

Thumbnail = UInt8[np.ndarray, "side side 3"]


@dataclasses.dataclass(frozen=True)
class Card:
    """One image of the sheet, with what is said about it."""

    name: str
    thumbnail: Thumbnail
    texts: tuple[Text, ...]
    labels: tuple[str, ...]


def thumbnail(data: bytes, regions: Sequence[Region]) -> Thumbnail:
    """Draws an image in a white square of SIDE pixels, with its first boxes.

    Args:
        data: the encoded image.
        regions: its boxes.

    Returns:
        The square.

    Raises:
        CorruptImage: if the image cannot be decoded.
    """
    pixels = images.decode(data)
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for index, region in enumerate(regions[:_BOXES]):
        x1, y1, x2, y2 = (round(side * scale) for side in region.box)
        cv2.rectangle(small, (x1, y1), (min(x2, size[0] - 1), min(y2, size[1] - 1)), _COLOURS[index % len(_COLOURS)])
    square = np.full((SIDE, SIDE, 3), 255, np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = small
    return square


def write(directory: Path, cards: Sequence[Card], title: str, note: str) -> list[Path]:
    """Writes the contact sheet of `cards` as a JPEG and as a page; their paths."""
    image, page = directory / IMAGE_NAME, directory / PAGE_NAME
    atomic_files.write(image, _jpeg(sheet(cards)))
    atomic_files.write(page, _page(cards, title, note).encode("utf-8"))
    return [image, page]


def sheet(cards: Sequence[Card]) -> UInt8[np.ndarray, "height width 3"]:
    """All cards in rows, numbered from 1 as on the page."""
    columns = min(_COLUMNS, max(1, len(cards)))
    rows = -(-len(cards) // columns)
    wide, high = SIDE + _MARGIN, SIDE + _MARGIN + _LABEL
    canvas = np.full((rows * high + _MARGIN, columns * wide + _MARGIN, 3), 255, np.uint8)
    for index, card in enumerate(cards):
        top, left = _MARGIN + index // columns * high, _MARGIN + index % columns * wide
        canvas[top : top + SIDE, left : left + SIDE] = card.thumbnail
        place = (left + 2, top + SIDE + _LABEL - 4)
        cv2.putText(canvas, str(index + 1), place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (70, 70, 70), 1, cv2.LINE_AA)
    return canvas


def _page(cards: Sequence[Card], title: str, note: str) -> str:
    sections = []
    for number, card in enumerate(cards, start=1):
        lines = "".join(
            f"<li>{html_page.code(f'{text.language} {text.kind}')} "
            f"{html_page.spoken('span', text.text, text.language)}</li>"
            for text in card.texts[:_TEXTS]
        )
        more = f"<li>and {len(card.texts) - _TEXTS} more</li>" if len(card.texts) > _TEXTS else ""
        boxes = f'<p class="note">boxes: {html.escape(", ".join(card.labels))}</p>' if card.labels else ""
        named = f"<h3>{number}. {html.escape(card.name)}</h3>"
        image = html_page.image(_jpeg(card.thumbnail), f"image {number}")
        sections.append(f'<section class="image">{image}<div>{named}{boxes}<ul>{lines}{more}</ul></div></section>')
    return html_page.document(title, note, sections)


def _jpeg(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), _QUALITY)[1].tobytes()
