"""BriVL 1.0's JSON lines: `image_id` (a path), `bbox`, `sentences` (`[kind, text]` pairs).

Source: facts under "Official data formats" of the BriVL code. Boxes are `[x1, y1, x2, y2]` in pixels of the stored
image; the released loader uses the first 36 of up to 100. A line without `bbox` has its boxes, if any, in an .npz file
with the key `bbox` beside the image (`a.npz` or `a.jpg.npz` for `a.jpg`). Kinds are alt_text, sur_text, easy, first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wenlan_jax.data import readers
from wenlan_jax.data.formats import files
from wenlan_jax.data.readers import Item, Outcome, ReadOptions, Reason, Rejected, Row
from wenlan_jax.data.records import Text

IMAGE, SENTENCES, BOXES = "image_id", "sentences", "bbox"


def read(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The lines of one file."""
    return readers.convert(files.json_lines(places[0], options.encoding), _item, options, IMAGE)


def _item(number: int, row: Row, options: ReadOptions) -> Item:
    sentences = row.get(SENTENCES)
    if not isinstance(sentences, list) or not all(_is_pair(sentence) for sentence in sentences):
        raise Rejected(Reason.MISSING_FIELD, f"{SENTENCES!r} must be a list of [kind, text] pairs")
    language = readers.language_code(options.language)
    texts = [Text(readers.clean(kind), language, readers.clean(text)) for kind, text in sentences]
    kept, fixes = readers.kept_texts(texts, options)
    regions, dropped = readers.regions_of(row.get(BOXES))
    return Item(
        number=number,
        image=readers.image_name(row.get(IMAGE), IMAGE),
        texts=kept,
        regions=regions,
        box_file=row.get(BOXES) is None,
        fixes={**fixes, "box_malformed_dropped": dropped},
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
