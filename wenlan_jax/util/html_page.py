"""HTML pages of images and texts: one file with its images inside, without scripts, loading nothing.

The parts of pages are functions and no templates of jinja2: tried, these were as much text, no checker of types sees
into them, and that everything is escaped, which they do unasked, a test with hostile texts holds for every page.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from html.parser import HTMLParser

import cv2
import numpy as np

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
.image { display: flex; flex-wrap: wrap; gap: 1.2rem; } .image > div { flex: 1; min-width: 18rem; }
.image ol { margin: 0; padding-left: 2rem; }
.image li { border-left: 3px solid transparent; padding: 0 .5rem; }
.image li.true { border-color: var(--true); }
"""


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser may do for a page of ours: show what is inside it. Whatever got in runs nothing and loads nothing."""

_TAGS = frozenset(["section", "h2", "h3", "p", "ul", "ol", "li", "figure", "figcaption", "div", "span", "img"])
_ATTRIBUTES = {
    "class": re.compile(r"[\w -]*"),
    "lang": re.compile(r"[\w-]*"),
    "dir": re.compile(r"auto"),
    "alt": re.compile(r".*", re.DOTALL),
    "src": re.compile(r"data:image/(jpeg|png|webp|gif);base64,[A-Za-z0-9+/=]*"),
}
"""What the parts of a gallery are made of; `src` belongs to `img` alone."""


class _Gallery(HTMLParser):
    """Writes what it reads anew, and notes what no gallery of ours holds."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.foreign: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = tag in _TAGS and all(
            name in _ATTRIBUTES and _ATTRIBUTES[name].fullmatch(value or "") and (name != "src" or tag == "img")
            for name, value in attrs
        )
        if not known:
            self.foreign.append(tag)
            return
        said = "".join(f' {name}="{html.escape(value or "")}"' for name, value in attrs)
        self.parts.append(f"<{tag}{said}>")
        if tag != "img":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.foreign.append(f"/{tag}")
            return
        self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.parts.append(html.escape(data))

    def handle_comment(self, data: str) -> None:
        self.foreign.append("comment")

    def handle_decl(self, decl: str) -> None:
        self.foreign.append("declaration")

    def handle_pi(self, data: str) -> None:
        self.foreign.append("instruction")

    def unknown_decl(self, data: str) -> None:
        self.foreign.append("declaration")

    @property
    def whole(self) -> bool:
        """Whether all that was read belongs to a gallery, and every element was closed."""
        return not self.foreign and not self._open


def gallery_parts(body: str) -> str | None:
    """Reads the parts of a gallery of ours and writes them anew.

    Args:
        body: HTML.

    Returns:
        The parts; None where anything else stands among them.
    """
    found = _Gallery()
    found.feed(body)
    found.close()
    return "".join(found.parts) if found.whole else None


def image(data: bytes, label: str) -> str:
    """Writes an encoded image as an element, as PNG if it is of a kind that browsers do not show.

    Where it cannot be decoded, a mark stands in its place: a page is no place to end a training for an image.

    Args:
        data: the encoded bytes.
        label: what a reader who cannot see it is told.

    Returns:
        HTML.
    """
    kinds = [kind for start, kind in _SIGNATURES.items() if data.startswith(start)]
    if not kinds:
        if (shown := _png(data)) is None:
            return code(f"{label}: an image that cannot be shown")
        kinds, data = ["png"], shown
    content = base64.b64encode(data).decode()
    return f'<img src="data:image/{kinds[0]};base64,{content}" alt="{html.escape(label)}">'


def _png(data: bytes) -> bytes | None:
    """An image of another kind, such as BMP or TIFF, as PNG; None for one that cannot be decoded."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if pixels is None else bytes(cv2.imencode(".png", pixels)[1].tobytes())


def spoken(tag: str, text: str, language: str) -> str:
    """Writes a text in an element that declares its language, so that the right glyphs and voice are chosen.

    Args:
        tag: of the element.
        text: the text, which is escaped.
        language: its code; "" for none.

    Returns:
        HTML.
    """
    lang = f' lang="{html.escape(language)}"' if language else ""
    return f'<{tag}{lang} dir="auto">{html.escape(text)}</{tag}>'


def code(text: str) -> str:
    """Writes a short mark, such as a language, in small type."""
    return f'<span class="code">{html.escape(text)}</span>'


def document(title: str, note: str, parts: Sequence[str]) -> str:
    """Writes a whole page.

    Args:
        title: of the page.
        note: stands below the title.
        parts: HTML, which is not escaped.

    Returns:
        HTML.
    """
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join([f'<h1>{html.escape(title)}</h1><p class="note">{html.escape(note)}</p>', *parts])
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
    return page.encode("utf-8", "backslashreplace").decode("utf-8")  # a path may hold bytes that are no text
