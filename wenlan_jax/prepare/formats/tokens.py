"""Captions by token: Flickr30k's `results_20130124.token` and the sets that keep its layout, one caption a line.

Layout: `1000092795.jpg#0<TAB>caption`. Flickr30k-CN and COCO-CN (`imageid.human-written-caption.txt`) leave the suffix
of the image out, may have a mark of the language before the number (`1000092795#zhb#0`), and set a space for the tab.
Trap: COCO-CN takes its images from train2014 and val2014 alike, so names of COCO's form are looked for in the folder
that the name tells (`ingest`). Its test images may be training images of Karpathy's splits: compare by image name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from wenlan_jax.data.records import Text
from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.formats import files
from wenlan_jax.prepare.raw_items import Item, Outcome, ReadOptions, Reason, Rejected, Row

LINE = re.compile(r"\s*(?P<image>[^#\t]+)(?:#[A-Za-z][\w-]*)*#\d+[\t ]+(?P<caption>.*)", re.DOTALL)
_SUFFIX = re.compile(r"\.(jpe?g|png|webp|gif|bmp)", re.IGNORECASE)


def read(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The lines of one file."""

    def rows() -> Iterator[tuple[int, Row | Rejected]]:
        for number, line in enumerate(files.lines(places[0], options.encoding), start=1):
            if line.strip():
                found = LINE.fullmatch(line)
                yield (
                    number,
                    found.groupdict() if found else Rejected(Reason.WRONG_COLUMNS, "not IMAGE#NUMBER<TAB>TEXT"),
                )

    return raw_items.convert(rows(), _item, options, "image")


def _item(number: int, row: Row, options: ReadOptions) -> Item:
    image = raw_items.image_name(row["image"], "image")
    text = Text(raw_items.DEFAULT_KIND, raw_items.language_code(options.language), raw_items.clean(row["caption"]))
    kept, fixes = raw_items.kept_texts([text], options)
    return Item(number, image if _SUFFIX.search(image[-5:]) else f"{image}.jpg", kept, fixes=fixes)
