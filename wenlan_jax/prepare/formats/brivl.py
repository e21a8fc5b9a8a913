"""BriVL 1.0's JSON lines: `image_id` (a path), `bbox`, `sentences` (`[kind, text]` pairs).

Source: the official code (configs/PAPERS.md, released files and formats). Boxes are `[x1, y1, x2, y2]` in pixels of
the stored image; the released loader uses the first 36 of up to 100. A line without `bbox` has its boxes, if any, in
an .npz file with the key `bbox` beside the image (`a.npz` or `a.jpg.npz` for `a.jpg`). Kinds are alt_text, sur_text,
easy, first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wenlan_jax.data.records import Text
from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.formats import files
from wenlan_jax.prepare.raw_items import Item, Outcome, ReadOptions, Reason, Rejected, Row

IMAGE, SENTENCES, BOXES = "image_id", "sentences", "bbox"


def read(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The lines of one file."""
    return raw_items.convert(files.json_lines(places[0], options.encoding), _item, options, IMAGE)


def _item(number: int, row: Row, options: ReadOptions) -> Item:
    sentences = row.get(SENTENCES)
    if not isinstance(sentences, list) or not all(_is_pair(sentence) for sentence in sentences):
        raise Rejected(Reason.MISSING_FIELD, f"{SENTENCES!r} must be a list of [kind, text] pairs")
    language = raw_items.language_code(options.language)
    texts = [Text(raw_items.clean(kind), language, raw_items.clean(text)) for kind, text in sentences]
    kept, fixes = raw_items.kept_texts(texts, options)
    regions, dropped = raw_items.regions_of(row.get(BOXES))
    return Item(
        number=number,
        image=raw_items.image_name(row.get(IMAGE), IMAGE),
        texts=kept,
        regions=regions,
        box_file=row.get(BOXES) is None,
        fixes={**fixes, "box_malformed_dropped": dropped},
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
