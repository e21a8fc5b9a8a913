"""A page that shows what a model retrieves: one HTML file with its images inside, readable offline.

Texts with their best images and images with their best texts; the truth is framed and its rank given. The
page has no scripts and loads nothing.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.util import atomic_files, html_page


@dataclasses.dataclass(frozen=True)
class ImageHit:
    """An image found for a text.

    Attributes:
        image: its encoded bytes.
        score: its score; higher is better.
        is_true: whether it belongs to the text.
    """

    image: bytes
    score: float
    is_true: bool


@dataclasses.dataclass(frozen=True)
class TextHit:
    """A text found for an image.

    Attributes:
        text: the text.
        language: its language.
        score: its score; higher is better.
        is_true: whether it belongs to the image.
    """

    text: str
    language: str
    score: float
    is_true: bool


@dataclasses.dataclass(frozen=True)
class TextQuery:
    """A text and the images found for it.

    Attributes:
        text: the text.
        language: its language.
        hits: the images, best first.
        rank: of its best true image, from 1; None if none is given.
        found_by: which of several models found them, where the page has several.
    """

    text: str
    language: str
    hits: Sequence[ImageHit]
    rank: int | None
    found_by: str = ""


@dataclasses.dataclass(frozen=True)
class ImageQuery:
    """An image and the texts found for it.

    Attributes:
        image: its encoded bytes.
        hits: the texts, best first.
        rank: of its best true text, from 1; None if none is given.
        found_by: which of several models found them, where the page has several.
    """

    image: bytes
    hits: Sequence[TextHit]
    rank: int | None
    found_by: str = ""


GalleryRow = TextQuery | ImageQuery


def _note(query: GalleryRow) -> str:
    rank = "no true answer given" if query.rank is None else f"rank of the truth: {query.rank}"
    return html.escape(f"{query.found_by}: {rank}" if query.found_by else rank)


def _mark(is_true: bool) -> str:
    return ' class="true"' if is_true else ""


def _text_section(query: TextQuery) -> str:
    figures = "".join(
        f"<li><figure{_mark(hit.is_true)}>{html_page.image(hit.image, f'image at rank {place}')}"
        f'<figcaption class="score">{place}. {hit.score:.3f}</figcaption></figure></li>'
        for place, hit in enumerate(query.hits, start=1)
    )
    heading = f"<h3>{html_page.code(query.language)} {html_page.spoken('span', query.text, query.language)}</h3>"
    return f'<section>{heading}<p class="note">{_note(query)}</p><ul>{figures}</ul></section>'


def _image_section(query: ImageQuery) -> str:
    lines = "".join(
        f'<li{_mark(hit.is_true)}><span class="score">{hit.score:.3f}</span> '
        f"{html_page.code(hit.language)} {html_page.spoken('span', hit.text, hit.language)}</li>"
        for hit in query.hits
    )
    side = f'<div><p class="note">{_note(query)}</p><ol>{lines}</ol></div>'
    return f'<section class="image">{html_page.image(query.image, "query image")}{side}</section>'


def render_gallery(queries: Sequence[GalleryRow], title: str, note: str) -> str:
    """Renders the page; texts come first, then images.

    Args:
        queries: what it shows.
        title: of the page.
        note: stands below the title, e.g. checkpoint, data and recall.

    Returns:
        HTML.
    """
    texts = [_text_section(query) for query in queries if isinstance(query, TextQuery)]
    images = [_image_section(query) for query in queries if isinstance(query, ImageQuery)]
    parts = []
    if texts:
        parts += ["<h2>Text to image</h2>", *texts]
    if images:
        parts += ["<h2>Image to text</h2>", *images]
    return html_page.document(title, note, parts)


def write_gallery(path: Path, queries: Sequence[GalleryRow], title: str, note: str = "") -> None:
    """Writes the page to a file, whole or not at all.

    Args:
        path: the file.
        queries: what it shows.
        title: of the page.
        note: stands below the title, e.g. checkpoint, data and recall.
    """
    atomic_files.write(path, render_gallery(queries, title, note).encode("utf-8"))
