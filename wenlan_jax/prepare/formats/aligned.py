"""Files that belong together by line number: Multi30K's texts in many languages, and BriVL 2.0's two lists.

Multi30K  a folder (the repository's `data`, or `task1` or `task2` of it) with `image_splits/SPLIT.txt`, an image name a
          line, and `raw/SPLIT[.K].LANGUAGE[.gz]`, a text a line: task 1 one translated sentence each in en, de, fr, cs,
          task 2 five independent ones in en and de. Traps: the splits are called `test_2016_flickr` in task 1 and
          `test_2016` in task 2, whose own list of images is `train_images.txt` and which has none for the others; the
          lists of both tasks agree by line, so one image gets the texts of both, and a difference is an error; fr and
          cs have one text an image, which is not repeated. The test sets of 2017 and 2018 are splits of their own.
BriVL 2.0 `images.csv`, an image path a line, and `texts.csv`, a text a line. They are not CSV: no header, no quoting.

A file with more or fewer lines than the list of images would pair every text after the gap with a wrong image: it is
refused whole.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence

from wenlan_jax.data.records import Text
from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.formats import files
from wenlan_jax.prepare.raw_items import Item, Outcome, ReadError, ReadOptions, Row

BRIVL2_IMAGES, BRIVL2_TEXTS = "images.csv", "texts.csv"
_TEXTS = re.compile(r"(?P<split>[A-Za-z0-9_]+)(\.\d)?\.(?P<language>[a-z]{2})(\.gz)?")
_LIST = re.compile(r"(?P<split>[A-Za-z0-9_]+?)(_images)?\.txt")
_SPLITS = {"val": "validation", "test_2016": "test", "test_2016_flickr": "test"}


def group_multi30k(places: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups the files of a split: its list of images, and the files of its texts.

    Args:
        places: the files of the folder.

    Returns:
        One group a split.

    Raises:
        ReadError: for texts without a list of images, or no texts.
    """
    lists: dict[str, list[str]] = {}
    texts: dict[str, list[str]] = {}
    for place in places:
        name = files.name_of(place)
        for pattern, found in ((_LIST, lists), (_TEXTS, texts)):
            if match := pattern.fullmatch(name):
                found.setdefault(_split(match["split"]), []).append(place)
    without = sorted(texts.keys() - lists.keys())
    if without or not texts:
        raise ReadError(
            f"{os.path.commonprefix(list(places))}: needs image_splits/SPLIT.txt and raw/SPLIT.LANGUAGE.gz; "
            f"{'no list of images for ' + ', '.join(without) if without else 'no texts found'}"
        )
    return [(*sorted(lists[split]), *sorted(texts[split])) for split in sorted(texts)]


def read_multi30k(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """Reads the images of one split, each with the texts of all languages."""
    lists = [place for place in places if _LIST.fullmatch(files.name_of(place))]
    names = _column(lists[0], options)
    for other in lists[1:]:
        if _column(other, options) != names:
            raise ReadError(f"{other}: differs from {lists[0]}; the texts of the tasks do not align, pack them apart")
    texts = {place: _aligned(place, len(names), lists[0], options) for place in places if place not in lists}
    match = _LIST.fullmatch(files.name_of(lists[0]))
    split = _split(match["split"]) if match else ""
    rows = (
        (number, {"image": name, "texts": [(_language(place), column[number - 1]) for place, column in texts.items()]})
        for number, name in enumerate(names, start=1)
    )

    def item(number: int, row: Row, options: ReadOptions) -> Item:
        return _item(number, row, options, split)

    return raw_items.convert(rows, item, options, "image")


def group_brivl2(places: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups each list of images with the list of texts beside it."""
    return [
        (place, place.removesuffix(BRIVL2_IMAGES) + BRIVL2_TEXTS)
        for place in places
        if files.name_of(place) != BRIVL2_TEXTS
    ]


def read_brivl2(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """Reads the lines of both lists."""
    names = _column(places[0], options)
    texts = _aligned(places[1], len(names), places[0], options)
    rows = (
        (number, {"image": name, "texts": [(options.language, text)]})
        for number, (name, text) in enumerate(zip(names, texts, strict=True), start=1)
        if name or text
    )
    return raw_items.convert(rows, _item, options, "image")


def _item(number: int, row: Row, options: ReadOptions, split: str = "") -> Item:
    texts = [
        Text(raw_items.DEFAULT_KIND, raw_items.language_code(language), raw_items.clean(text))
        for language, text in row["texts"]
    ]
    kept, fixes = raw_items.kept_texts(texts, options)
    return Item(number, raw_items.image_name(row["image"], "image"), kept, split=split, fixes=fixes)


def _column(place: str, options: ReadOptions) -> list[str]:
    """The lines without their ends; empty lines keep their place, but for those after the last."""
    lines = [line.strip() for line in files.lines(place, options.encoding)]
    trailing = len(list(itertools.takewhile(lambda line: not line, reversed(lines))))
    return lines[: len(lines) - trailing]


def _aligned(place: str, count: int, images: str, options: ReadOptions) -> list[str]:
    column = _column(place, options)
    if len(column) != count:
        raise ReadError(f"{place}: has {len(column)} lines, but {images} names {count} images; fetch both again")
    return column


def _split(name: str) -> str:
    return _SPLITS.get(name, name)


def _language(place: str) -> str:
    match = _TEXTS.fullmatch(files.name_of(place))
    return match["language"] if match else ""
