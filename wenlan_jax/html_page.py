"""HTML pages of pictures and texts: one file with its pictures inside, without scripts, loading nothing."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

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


def image(data: bytes, label: str) -> str:
    """An encoded picture as an element. Raises ValueError for a kind that browsers do not show."""
    kinds = [kind for start, kind in _SIGNATURES.items() if data.startswith(start)]
    if not kinds:
        raise ValueError(f"A browser shows JPEG, PNG, WebP or GIF; these bytes begin with {data[:8]!r}.")
    content = base64.b64encode(data).decode()
    return f'<img src="data:image/{kinds[0]};base64,{content}" alt="{html.escape(label)}">'


def spoken(tag: str, text: str, language: str) -> str:
    """`text` in an element that declares its language, so that the right glyphs and voice are chosen."""
    lang = f' lang="{html.escape(language)}"' if language else ""
    return f'<{tag}{lang} dir="auto">{html.escape(text)}</{tag}>'


def code(text: str) -> str:
    """A short mark, such as a language, in small type."""
    return f'<span class="code">{html.escape(text)}</span>'


def document(title: str, note: str, parts: Sequence[str]) -> str:
    """The page of `parts`; `note` stands below the title."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join([f'<h1>{html.escape(title)}</h1><p class="note">{html.escape(note)}</p>', *parts])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
