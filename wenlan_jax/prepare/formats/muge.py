"""MUGE (Chinese e-commerce): `SPLIT_imgs.tsv`, an image in base64 a line, and `SPLIT_texts.jsonl`, its captions.

Layout: lines `image_id<TAB>base64`, and objects `{text_id, text, image_ids: [...]}`; a text may belong to several
images. Traps: images without a text (in the test split, all), and texts that name images of another split, are faults.
The texts are kept in memory, the images are not.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

from wenlan_jax.data.records import Text
from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.formats import files
from wenlan_jax.prepare.raw_items import Fault, Item, Outcome, ReadOptions, Reason, Rejected

IMAGES, TEXTS = "_imgs.tsv", "_texts.jsonl"
_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_Captions = dict[str, list[tuple[int, Text]]]


def group(places: Sequence[str]) -> list[tuple[str, ...]]:
    """Each file of images with the file of texts beside it; either may be given."""
    stems = dict.fromkeys(place.removesuffix(IMAGES).removesuffix(TEXTS) for place in places)
    return [(stem + IMAGES, stem + TEXTS) for stem in stems]


def read(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The images of one split, each with its texts; then the texts whose images are not there."""
    captions: _Captions = collections.defaultdict(list)
    yield from _read_captions(places[1], options, captions)
    split = _SPLITS.get(files.name_of(places[0]).removesuffix(IMAGES), "")
    for number, line in enumerate(files.lines(places[0], options.encoding), start=1):
        if not line.strip():
            continue
        key, _, encoded = line.strip().partition("\t")
        try:
            yield _item(number, key, encoded, captions, split)
        except Rejected as rejected:
            yield Fault(number, rejected.reason, rejected.detail, raw_items.printable(key[:80]))
    for key, texts in captions.items():
        for number, _ in texts:
            yield Fault(
                number, Reason.MISSING_IMAGE, f"{places[1]}: image {key[:80]!r} is not in {places[0]}", key[:80]
            )


def _read_captions(place: str, options: ReadOptions, captions: _Captions) -> Iterator[Fault]:
    language = raw_items.language_code(options.language)
    for number, row in files.json_lines(place, options.encoding):
        try:
            if isinstance(row, Rejected):
                raise row
            images = row.get("image_ids")
            if not isinstance(images, list) or not images:
                raise Rejected(Reason.MISSING_FIELD, f"{place}: 'image_ids' must be a list of images")
            text = Text(raw_items.DEFAULT_KIND, language, raw_items.clean(row.get("text")))
            raw_items.kept_texts([text], options)
        except Rejected as rejected:
            yield Fault(number, rejected.reason, rejected.detail)
            continue
        for image in images:
            captions[raw_items.printable(str(image))].append((number, text))


def _item(number: int, key: str, encoded: str, captions: _Captions, split: str) -> Item:
    raw_items.check_unicode(key)
    texts = captions.pop(key, None)
    if texts is None:
        raise Rejected(Reason.MISSING_TEXT, f"no text for image {key[:80]!r}")
    data = files.from_base64(encoded)
    return Item(number, key, tuple(text for _, text in texts), data, id=key, split=split)
