"""WebDataset shards in img2dataset's layout: tar files whose members `KEY.jpg`, `KEY.txt`, `KEY.json` are one sample.

Layout: a sample is all members with one key, the name up to its last dot. The image is any of the usual suffixes. The
caption is `KEY.txt`, or else the caption field of `KEY.json`; the JSON also tells what other fields are asked for
(`--text-field`). `KEY.title.txt` is a text of kind `title`, `KEY.zh.txt` one in Chinese: a suffix has two parts where
the first is a language or a known kind (`raw_items.KINDS`, and those of `--text-field`).

Traps: truncated and damaged archives (each loss is one fault that names the byte); downloads that failed leave JSON
with a `status` and no image; width and height in the JSON are those before img2dataset resized, so they are not used;
keys that occur twice, in one archive or, where keys count from 0 in each, over several (`ingest` tells these apart);
parts of a sample that are no neighbours, which wait for each other in memory (`samples`); what macOS adds.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

from wenlan_jax.data.records import Text
from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.formats import files, samples, tar
from wenlan_jax.prepare.raw_items import Fault, Item, Outcome, ReadOptions, Reason, Rejected
from wenlan_jax.util import languages

SUFFIXES = (".tar", ".tar.gz", ".tgz")


def read(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The samples of one shard, in order; those whose parts are apart when the last of these is read.

    The shard is read twice, first for its names: a shard at a URL is best copied where that is slow.
    """
    words = {*raw_items.KINDS, *options.fields.texts, *options.fields.texts.values()}
    with files.open_bytes(places[0]) as stream:
        names = samples.Names(tar.members(stream, keep=len(samples.APPLE_DOUBLE)), words)
    gathering = samples.Gathering(names)
    passed = collections.Counter(macos_member_ignored=names.macos_members)  # which the first outcome tells
    with files.open_bytes(places[0]) as stream:
        for found in gathering.samples(tar.members(stream)):
            if isinstance(found, tar.Damage):
                detail = f"{places[0]}: {raw_items.printable(found.detail)}"
                yield Fault(gathering.next_number(), Reason.DAMAGED_SHARD, detail, fixes=passed)
            else:
                yield _outcome(found, options, passed)
            passed = collections.Counter()


def _outcome(sample: samples.Sample, options: ReadOptions, passed: collections.Counter[str]) -> Outcome:
    try:
        item = _item(sample, options)
        return dataclasses.replace(item, fixes=collections.Counter(item.fixes) + passed)
    except Rejected as rejected:
        return Fault(sample.number, rejected.reason, rejected.detail, raw_items.printable(sample.key), fixes=passed)


def _item(sample: samples.Sample, options: ReadOptions) -> Item:
    fixes: collections.Counter[str] = collections.Counter()
    key, fields = raw_items.clean(sample.key), options.fields
    if sample.fault is not None:
        raise sample.fault
    row = _metadata(sample, options, fixes)
    images = [part for part in sample.parts if samples.is_image(part)]
    if not images:
        why = raw_items.failure(row) or "no member of this name with an image suffix"
        raise Rejected(Reason.MISSING_IMAGE, f"{key}: {why}")
    fixes["image_extra_ignored"] += len(images) - 1
    texts = list(_texts(sample, options, fixes))
    if "txt" in sample.parts:  # it and the first field are the same caption
        row.pop(next(iter(fields.texts)), None)
    if not texts and not any(row.get(name) is not None for name in fields.texts):
        raise Rejected(Reason.MISSING_TEXT, f"{key}: neither .txt nor a field {' or '.join(fields.texts)} in .json")
    row |= {fields.image: f"{key}.{images[0]}"} | ({} if fields.id else {"id": key})
    item = raw_items.item_of_row(sample.number, row, options, texts)
    return dataclasses.replace(item, data=sample.parts[images[0]], fixes={**item.fixes, **fixes})


def _metadata(sample: samples.Sample, options: ReadOptions, fixes: collections.Counter[str]) -> dict[str, Any]:
    """What `KEY.json` says; a bad one counts only where the sample has no text of its own."""
    if "json" not in sample.parts:
        return {}
    row = files.json_object(files.text_of(sample.parts["json"], options.encoding))
    if not isinstance(row, Rejected):
        return row
    if not any(map(samples.is_text, sample.parts)):
        raise row
    fixes["json_malformed_ignored"] += 1
    return {}


def _texts(sample: samples.Sample, options: ReadOptions, fixes: collections.Counter[str]) -> Iterator[Text]:
    """The texts in members of their own; `txt` is of the kind of the first field that is asked for."""
    kinds = options.fields.texts
    for part, data in sample.parts.items():
        name = next(iter(kinds)) if part == "txt" else part.removesuffix(".txt")
        if part == "json" or samples.is_image(part):
            continue
        if not samples.is_text(part) and part not in kinds:
            fixes["member_ignored"] += 1
            continue
        text = raw_items.clean(files.text_of(data, options.encoding))
        language = "" if name in kinds else languages.known_code(name)
        yield Text(raw_items.DEFAULT_KIND, language, text) if language else Text(kinds.get(name, name), "", text)
