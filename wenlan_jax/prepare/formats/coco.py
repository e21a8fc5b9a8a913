"""Caption sets over named images in one JSON file: MSCOCO and what keeps its layout, Karpathy's splits, AIC-ICC.

MSCOCO  `{"images": [{id, file_name}], "annotations": [{image_id, caption}]}`, one caption an annotation. STAIR
        (Japanese) is the same with `tokenized_caption` beside `caption`: the words with spaces between, not
        used. An annotation without its image, and an image without an annotation, are faults.
Karpathy `{"images": [{filename, filepath?, split, sentences: [{raw, tokens}]}]}` (dataset_coco.json,
        dataset_flickr30k.json). Split `restval` is training data; `val` is called `validation` here. With `filepath`
        the images lie in that folder, as COCO's val2014 holds training images too.
AIC-ICC `[{image_id, caption: [5], url}]`, image_id being the file name; captions may be empty or hold line breaks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from wenlan_jax.data.records import Text
from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.formats import files
from wenlan_jax.prepare.raw_items import Fault, Item, Outcome, ReadOptions, Reason, Rejected, Row

_SPLITS = {"restval": "train", "val": "validation"}
_SPACES = re.compile(r"\s+")


def read_coco(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The annotations of one file in order, and the images that have none."""
    document = files.json_document(places[0], options.encoding)
    names, described = _image_names(document, places[0]), set()

    def rows() -> Iterator[tuple[int, Row | Rejected]]:
        for number, row in enumerate(files.table(document, "annotations", places[0]), start=1):
            if isinstance(row, Rejected):
                yield number, row
                continue
            key = str(row.get("image_id"))
            described.add(key)
            found = names.get(key, ())
            why = f"names {len(found)} images" if found else "is not among the images of this file"
            missing = Rejected(Reason.MISSING_IMAGE, f"image_id {key[:80]!r} {why}")
            yield number, {"image": found[0], "caption": row.get("caption")} if len(found) == 1 else missing

    yield from raw_items.convert(rows(), _captioned, options, "image")
    for number, (key, found) in enumerate(names.items(), start=1):
        if key not in described:
            told = raw_items.printable(str(found[0])[:1000])
            yield Fault(number, Reason.MISSING_TEXT, "an image without an annotation", told)


def _image_names(document: Any, place: str) -> dict[str, list[Any]]:
    """The different names of the images of each id; more than one where sets with ids of their own were joined."""
    names: dict[str, list[Any]] = {}
    for row in files.table(document, "images", place):
        if isinstance(row, dict):
            of_id = names.setdefault(str(row.get("id")), [])
            if row.get("file_name") not in of_id:
                of_id.append(row.get("file_name"))
    return names


def read_karpathy(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The images of one file, each with all its sentences."""
    document = files.json_document(places[0], options.encoding)
    rows = enumerate(files.table(document, "images", places[0]), start=1)
    return raw_items.convert(rows, _karpathy, options, "filename")


def read_aic(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The images of one file, each with all its captions."""
    rows = enumerate(files.table(files.json_document(places[0], options.encoding), "", places[0]), start=1)
    named = ((n, row if isinstance(row, Rejected) else {**row, "image": row.get("image_id")}) for n, row in rows)
    return raw_items.convert(named, _captioned, options, "image")


def _captioned(number: int, row: Row, options: ReadOptions) -> Item:
    language = raw_items.language_code(options.language)
    image = raw_items.image_name(row.get("image"), "file_name or image_id")
    if row.get("caption") is None:
        raise Rejected(Reason.MISSING_FIELD, "no field 'caption'")
    texts, fixes = raw_items.kept_texts(
        [
            Text(text.kind, text.language, _SPACES.sub(" ", text.text))
            for text in raw_items.texts_of(row["caption"], "caption", raw_items.DEFAULT_KIND, language)
        ],
        options,
    )
    return Item(number, image, texts, fixes=fixes)


def _karpathy(number: int, row: Row, options: ReadOptions) -> Item:
    sentences = row.get("sentences")
    if not isinstance(sentences, list) or not all(isinstance(sentence, dict) for sentence in sentences):
        raise Rejected(Reason.MISSING_FIELD, "'sentences' must be a list of objects")
    split = raw_items.clean(row.get("split", ""))
    split = _SPLITS.get(split, split)
    if split and (why := raw_items.split_fault(split)):
        raise Rejected(Reason.BAD_VALUE, why)
    language = raw_items.language_code(options.language)
    texts = [Text(raw_items.DEFAULT_KIND, language, raw_items.clean(sentence.get("raw"))) for sentence in sentences]
    kept, fixes = raw_items.kept_texts(texts, options)
    folder = raw_items.clean(row.get("filepath", ""))
    image = raw_items.image_name(row.get("filename"), "filename")
    return Item(number, f"{folder}/{image}" if folder else image, kept, split=split, fixes=fixes)
