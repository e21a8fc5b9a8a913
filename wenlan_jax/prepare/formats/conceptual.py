"""Conceptual Captions 3M and 12M: TSV without a header, a caption and the URL of its image a line.

The images are the user's download: a folder where `--image-name` tells the name of each, e.g. `{number:09d}.jpg`, with
`number` from 0 as the line, or `{url}`, which with `--allow-remote` fetches them one by one. Images that were
downloaded to WebDataset shards need no list: pack the shards. Traps: 3M has the caption first, 12M the URL; dead links
are the rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from wenlan_jax.data.records import Text
from wenlan_jax.prepare import name_templates, raw_items
from wenlan_jax.prepare.formats import files
from wenlan_jax.prepare.raw_items import Item, Outcome, ReadOptions, Reason, Rejected, Row

_URL = re.compile(r"https?://\S+")


def looks_so(head: str) -> bool:
    """Whether a file begins with a caption and a URL, in either order."""
    cells = head.split("\n")[0].strip("\r").split("\t")
    return len(cells) == 2 and sum(bool(_URL.fullmatch(cell)) for cell in cells) == 1


def read(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The lines of one file."""

    def rows() -> Iterator[tuple[int, Row | Rejected]]:
        for number, line in enumerate(files.lines(places[0], options.encoding), start=1):
            if line.strip():
                yield number, _cells(line.strip("\r\n").split("\t"))

    return raw_items.convert(rows(), _item, options, "url")


def check(options: ReadOptions) -> None:
    """Checks the template of image names.

    Args:
        options: how raw text is understood.

    Raises:
        ReadError: for a template that is none.
    """
    name_templates.check("--image-name", options.image_name, {"number": 0, "url": ""})


def _cells(cells: list[str]) -> Row | Rejected:
    if len(cells) != 2:
        return Rejected(Reason.WRONG_COLUMNS, f"{len(cells)} columns, not a caption and a URL")
    url = next((cell for cell in cells if _URL.fullmatch(cell.strip())), None)
    if url is None:
        return Rejected(Reason.WRONG_COLUMNS, "no column is a URL")
    return {"url": url, "caption": cells[1] if url is cells[0] else cells[0]}


def _item(number: int, row: Row, options: ReadOptions) -> Item:
    url = raw_items.clean(row["url"])
    text = Text(raw_items.DEFAULT_KIND, raw_items.language_code(options.language), raw_items.clean(row["caption"]))
    kept, fixes = raw_items.kept_texts([text], options)
    return Item(number, options.image_name.format(number=number - 1, url=url), kept, fixes=fixes)
