"""WebDataset shards in img2dataset's layout: tar files whose members `KEY.jpg`, `KEY.txt`, `KEY.json` are one sample.

Layout: a sample is a run of members with one key, the name up to the first dot of its last part. The image is any of
the usual suffixes. The caption is `KEY.txt`, or else the caption field of `KEY.json`; the JSON also tells what other
fields are asked for (`--text-field`). `KEY.title.txt` is a text of kind `title`, `KEY.zh.txt` one in Chinese.

Traps: truncated and damaged archives (each loss is one fault that names the byte); downloads that failed leave JSON
with a `status` and no image; width and height in the JSON are those before img2dataset resized, so they are not used;
keys that occur twice, in one archive or, where keys count from 0 in each, over several (`ingest` tells these apart).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

from wenlan_jax.data import readers, records
from wenlan_jax.data.formats import files, tar
from wenlan_jax.data.readers import Fault, Item, Outcome, ReadOptions, Reason, Rejected
from wenlan_jax.data.records import Text

SUFFIXES = (".tar", ".tar.gz", ".tgz")
_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "avif", "tif", "tiff")


@dataclasses.dataclass
class _Sample:
    """The members of one key, by what follows the key."""

    key: str
    parts: dict[str, bytes]


def read(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The samples of one shard, in order."""
    with files.open_bytes(places[0]) as stream:
        for number, found in enumerate(_samples(tar.members(stream)), start=1):
            if isinstance(found, tar.Damage):
                yield Fault(number, Reason.DAMAGED_SHARD, f"{places[0]}: {readers.printable(found.detail)}")
                continue
            try:
                yield _item(number, found, options)
            except Rejected as rejected:
                yield Fault(number, rejected.reason, rejected.detail, readers.printable(found.key))


def _samples(members: Iterator[tar.Member | tar.Damage]) -> Iterator[_Sample | tar.Damage]:
    """Runs of members with one key. A part that comes twice starts a sample, whose key is then a duplicate."""
    sample: _Sample | None = None
    for member in members:
        if isinstance(member, tar.Damage):
            if sample:
                yield sample
            sample = None
            yield member
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, part = name.partition(".")
        key, part = f"{folder}/{stem}" if folder else stem, part.lower()
        if sample is None or sample.key != key or part in sample.parts:
            if sample:
                yield sample
            sample = _Sample(key, {})
        sample.parts[part] = member.data
    if sample:
        yield sample


def _item(number: int, sample: _Sample, options: ReadOptions) -> Item:
    fixes: collections.Counter[str] = collections.Counter()
    key, fields = readers.clean(sample.key).removeprefix("./"), options.fields
    row = _metadata(sample, options, fixes)
    images = [part for part in sample.parts if part.rpartition(".")[2] in _IMAGES]
    if not images:
        status = row.get("error_message") or row.get("status") or "no member with an image suffix"
        raise Rejected(Reason.MISSING_IMAGE, f"{key}: {readers.printable(str(status)[:200])}")
    fixes["image_extra_ignored"] += len(images) - 1
    texts = list(_texts(sample, options, fixes))
    if "txt" in sample.parts:  # it and the first field are the same caption
        row.pop(next(iter(fields.texts)), None)
    if not texts and not any(row.get(name) is not None for name in fields.texts):
        raise Rejected(Reason.MISSING_TEXT, f"{key}: neither .txt nor a field {' or '.join(fields.texts)} in .json")
    row |= {fields.image: f"{key}.{images[0]}"} | ({} if fields.id else {"id": key})
    item = readers.item_of_row(number, row, options, texts)
    return dataclasses.replace(item, data=sample.parts[images[0]], fixes={**item.fixes, **fixes})


def _metadata(sample: _Sample, options: ReadOptions, fixes: collections.Counter[str]) -> dict[str, Any]:
    """What `KEY.json` says; a bad one counts only where the sample has no text of its own."""
    if "json" not in sample.parts:
        return {}
    row = files.json_object(files.text_of(sample.parts["json"], options.encoding))
    if not isinstance(row, Rejected):
        return row
    if not any(part.endswith("txt") for part in sample.parts):
        raise row
    fixes["json_malformed_ignored"] += 1
    return {}


def _texts(sample: _Sample, options: ReadOptions, fixes: collections.Counter[str]) -> Iterator[Text]:
    """The texts in members of their own; `txt` is of the kind of the first field that is asked for."""
    kinds = options.fields.texts
    for part, data in sample.parts.items():
        name = next(iter(kinds)) if part == "txt" else part.removesuffix(".txt")
        if part == "json" or part.rpartition(".")[2] in _IMAGES:
            continue
        if part != "txt" and not part.endswith(".txt") and part not in kinds:
            fixes["member_ignored"] += 1
            continue
        text = readers.clean(files.text_of(data, options.encoding))
        if name in records.LANGUAGES and name not in kinds:
            yield Text(readers.DEFAULT_KIND, name, text)
        else:
            yield Text(kinds.get(name, name), "", text)
