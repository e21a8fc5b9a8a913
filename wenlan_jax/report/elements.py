"""Parts of the page: tables of text, folded parts, bars. Everything that goes in as text is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

STYLE = """<style>
table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0 1.2rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .8rem .2rem 0; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
.words th, .words td { overflow-wrap: anywhere; text-align: left; }
.words th:first-child, .words td:first-child { overflow-wrap: normal; white-space: nowrap; }
caption { font-weight: 600; padding: .3rem 0; text-align: left; }
summary { cursor: pointer; margin: .6rem 0; } .wide { overflow-x: auto; } .wide svg { height: auto; width: 100%; }
.bar { background: var(--true); height: .6rem; margin-top: .4rem; } .bars td:last-child { min-width: 14rem; }
.remark { border-left: 3px solid #c60; padding-left: .6rem; }
</style>"""
"""What these parts need beside the style of every page."""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", words: bool = False) -> str:
    """Writes a table of text.

    Args:
        headers: of the columns.
        rows: the cells, which are escaped.
        caption: of the table; "" for none.
        words: whether columns after the first are words; else they are aligned right, as numbers are.

    Returns:
        HTML.
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in headers)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    named = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table{" class=words" if words else ""}>{named}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Writes names with what is to be said of each."""
    lines = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in rows)
    return f'<div class="wide"><table class="words"><tbody>{lines}</tbody></table></div>'


def bars(headers: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]) -> str:
    """Writes a table whose lines end in a bar.

    Args:
        headers: of the columns.
        rows: the cells of a line, and the length of its bar in [0, 1].

    Returns:
        HTML.
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in headers)
    lines = []
    for cells, share in rows:
        bar = f'<div class="bar" style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></div>'
        lines.append(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}<td>{bar}</td></tr>")
    return f'<table class="bars"><thead><tr>{head}<th></th></tr></thead><tbody>{"".join(lines)}</tbody></table>'


def section(title: str, *parts: str) -> str:
    """Writes a part of the page under a heading; the parts are not escaped."""
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>"


def folded(summary: str, content: str) -> str:
    """Writes content that is shown when its summary is clicked; the content is not escaped."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def note(text: str) -> str:
    """Writes a sentence about what stands beside it."""
    return f'<p class="note">{html.escape(text)}</p>'


def remark(text: str) -> str:
    """Writes a sentence that must not be overlooked."""
    return f'<p class="remark">{html.escape(text)}</p>'
