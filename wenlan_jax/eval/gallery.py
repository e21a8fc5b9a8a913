"""A page that shows what a model retrieves: one HTML file with its pictures inside, readable offline.

Texts with their best pictures and pictures with their best texts; the truth is framed and its rank given. The
page has no scripts and loads nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import os
from collections.abc import Sequence
from pathlib import Path

_SIGNATURES = {b"\xff\xd8": "jpeg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif"}

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --true: #1a8f4c; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
:lang(zh) { font-family: "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }
:lang(ja) { font-family: "Hiragino Sans", "Yu Gothic", "Noto Sans CJK JP", sans-serif; }
:lang(ko) { font-family: "Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans CJK KR", sans-serif; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
.note { opacity: .75; } .code { font: .75rem monospace; opacity: .7; }
ul { display: flex; flex-wrap: wrap; gap: .6rem; list-style: none; margin: 0; padding: 0; }
figure { border: 3px solid transparent; margin: 0; padding: 2px; text-align: center; }
img { display: block; height: 8rem; max-width: 16rem; object-fit: contain; }
figcaption, .score { font-size: .8rem; font-variant-numeric: tabular-nums; }
.true { border-color: var(--true); } .true .score::after { content: " \\2713"; color: var(--true); }
.picture { display: flex; flex-wrap: wrap; gap: 1.2rem; } .picture > div { flex: 1; min-width: 18rem; }
.picture ol { margin: 0; padding-left: 2rem; }
.picture li { border-left: 3px solid transparent; padding: 0 .5rem; }
.picture li.true { border-color: var(--true); }
"""


@dataclasses.dataclass(frozen=True)
class PictureHit:
    """A picture found for a text: its encoded bytes, its score, and whether it is the true one."""

    image: bytes
    score: float
    is_true: bool


@dataclasses.dataclass(frozen=True)
class TextHit:
    """A text found for a picture."""

    text: str
    language: str
    score: float
    is_true: bool


@dataclasses.dataclass(frozen=True)
class TextQuery:
    """A text and the pictures found for it, best first. `rank`: of its true picture, if it has one."""

    text: str
    language: str
    hits: Sequence[PictureHit]
    rank: int | None


@dataclasses.dataclass(frozen=True)
class PictureQuery:
    """A picture and the texts found for it, best first. `rank`: of its best true text, if any."""

    image: bytes
    hits: Sequence[TextHit]
    rank: int | None


GalleryRow = TextQuery | PictureQuery


def _image(data: bytes, label: str) -> str:
    kinds = [kind for start, kind in _SIGNATURES.items() if data.startswith(start)]
    if not kinds:
        raise ValueError(f"A browser shows JPEG, PNG, WebP or GIF; these bytes begin with {data[:8]!r}.")
    content = base64.b64encode(data).decode()
    return f'<img src="data:image/{kinds[0]};base64,{content}" alt="{html.escape(label)}">'


def _spoken(tag: str, text: str, language: str) -> str:
    """`text` in an element that declares its language, so that the right glyphs and voice are chosen."""
    lang = f' lang="{html.escape(language)}"' if language else ""
    return f'<{tag}{lang} dir="auto">{html.escape(text)}</{tag}>'


def _code(language: str) -> str:
    return f'<span class="code">{html.escape(language)}</span>'


def _rank(rank: int | None) -> str:
    return "no true answer given" if rank is None else f"rank of the truth: {rank}"


def _mark(is_true: bool) -> str:
    return ' class="true"' if is_true else ""


def _text_section(query: TextQuery) -> str:
    figures = "".join(
        f"<li><figure{_mark(hit.is_true)}>{_image(hit.image, f'picture at rank {place}')}"
        f'<figcaption class="score">{place}. {hit.score:.3f}</figcaption></figure></li>'
        for place, hit in enumerate(query.hits, start=1)
    )
    heading = f"<h3>{_code(query.language)} {_spoken('span', query.text, query.language)}</h3>"
    return f'<section>{heading}<p class="note">{_rank(query.rank)}</p><ul>{figures}</ul></section>'


def _picture_section(query: PictureQuery) -> str:
    lines = "".join(
        f'<li{_mark(hit.is_true)}><span class="score">{hit.score:.3f}</span> '
        f"{_code(hit.language)} {_spoken('span', hit.text, hit.language)}</li>"
        for hit in query.hits
    )
    side = f'<div><p class="note">{_rank(query.rank)}</p><ol>{lines}</ol></div>'
    return f'<section class="picture">{_image(query.image, "query picture")}{side}</section>'


def render_gallery(queries: Sequence[GalleryRow], title: str, note: str) -> str:
    """The page as HTML text; `note` stands below the title, e.g. checkpoint, data and recall."""
    texts = [_text_section(query) for query in queries if isinstance(query, TextQuery)]
    pictures = [_picture_section(query) for query in queries if isinstance(query, PictureQuery)]
    parts = [f'<h1>{html.escape(title)}</h1><p class="note">{html.escape(note)}</p>']
    if texts:
        parts += ["<h2>Text to picture</h2>", *texts]
    if pictures:
        parts += ["<h2>Picture to text</h2>", *pictures]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def write_gallery(path: Path, queries: Sequence[GalleryRow], title: str, note: str = "") -> None:
    """Writes the page of `queries` to `path`, whole or not at all; texts first, then pictures."""
    page = render_gallery(queries, title, note)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)
