"""WebDataset shards in img2dataset's layout: tar files whose members `KEY.jpg`, `KEY.txt`, `KEY.json` are one sample.

Layout: a sample is all members with one key, the name up to its last dot. The image is any of the usual suffixes. The
caption is `KEY.txt`, or else the caption field of `KEY.json`; the JSON also tells what other fields are asked for
(`--text-field`). `KEY.title.txt` is a text of kind `title`, `KEY.zh.txt` one in Chinese: a suffix has two parts where
the first is a language or a known kind (`readers.KINDS`, and those of `--text-field`).

Traps: truncated and damaged archives (each loss is one fault that names the byte); downloads that failed leave JSON
with a `status` and no image; width and height in the JSON are those before img2dataset resized, so they are not used;
keys that occur twice, in one archive or, where keys count from 0 in each, over several (`ingest` tells these apart);
parts of a sample that are no neighbours, which wait for each other in memory; what macOS adds to archives.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import unicodedata
from collections.abc import Container, Iterator
from typing import Any

from wenlan_jax.data import languages, readers
from wenlan_jax.data.formats import files, tar
from wenlan_jax.data.readers import Fault, Item, Outcome, ReadOptions, Reason, Rejected
from wenlan_jax.data.records import Text

SUFFIXES = (".tar", ".tar.gz", ".tgz")


HELD_LIMIT = 1 << 29
"""Bytes of samples that wait for parts which are no neighbours; the first of them are given up beyond it."""
_TWICE = "its key comes twice before it is whole, so that its parts cannot be told from those of the other"
_FAR = "its other parts are too far away; make the archive again with tar --sort=name"
_APPLE_DOUBLE = b"\0\5\x16\7"


@dataclasses.dataclass
class _Sample:
    """The members of one key, by what follows the key; `number` counts the samples of a shard as they begin."""

    number: int
    key: str
    parts: dict[str, bytes] = dataclasses.field(default_factory=dict)
    fault: Rejected | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.parts.values()))

    @property
    def is_whole(self) -> bool:
        """Whether it has all that it needs, or will never have."""
        has_image = any(_is_image(part) for part in self.parts)
        return self.fault is not None or (has_image and any(_is_text(part) or part == "json" for part in self.parts))

    def add(self, part: str, data: bytes) -> None:
        if self.size + len(data) > tar.MEMBER_LIMIT:
            told = f"its members have more than {tar.MEMBER_LIMIT} bytes together"
            self.fault = Rejected(Reason.OVERSIZED_IMAGE, told)
            self.parts.clear()
        elif self.fault is None or self.fault.reason is not Reason.OVERSIZED_IMAGE:
            self.parts[part] = data


def read(places: tuple[str, ...], options: ReadOptions) -> Iterator[Outcome]:
    """The samples of one shard, in order; those whose parts are apart when the last of these is read."""
    gathering = _Gathering({*readers.KINDS, *options.fields.texts, *options.fields.texts.values()})
    with files.open_bytes(places[0]) as stream:
        for found in gathering.samples(tar.members(stream)):
            passed = gathering.take_passed()
            if isinstance(found, tar.Damage):
                detail = f"{places[0]}: {readers.printable(found.detail)}"
                yield Fault(gathering.next_number(), Reason.DAMAGED_SHARD, detail, fixes=passed)
                continue
            try:
                item = _item(found, options)
                yield dataclasses.replace(item, fixes=collections.Counter(item.fixes) + passed)
            except Rejected as rejected:
                yield Fault(found.number, rejected.reason, rejected.detail, readers.printable(found.key), fixes=passed)


class _Gathering:
    """Joins the members of an archive to samples. A part that comes twice starts a sample, whose key is a duplicate.

    `words` are those that may stand between a key and `.txt`.
    """

    def __init__(self, words: Container[str]) -> None:
        self._words = words
        self._passed: collections.Counter[str] = collections.Counter()
        self._waiting: dict[str, _Sample] = {}
        self._held = self._number = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def take_passed(self) -> collections.Counter[str]:
        """Counts of the members that were passed over since the last call."""
        passed, self._passed = self._passed, collections.Counter()
        return passed

    def samples(self, members: Iterator[tar.Member | tar.Damage]) -> Iterator[_Sample | tar.Damage]:
        sample: _Sample | None = None
        for member, following in _with_next(members):
            if isinstance(member, tar.Damage):
                yield from self._ended(sample)
                sample = None
                yield member
            elif _is_of_macos(member):
                self._passed["macos_member_ignored"] += 1
            else:
                key, part = self._named(member.name, sample, following)
                if sample is None or sample.key != key or part in sample.parts:
                    fault = None
                    if sample is not None and sample.key == key and not sample.is_whole:
                        sample.fault = fault = Rejected(Reason.DUPLICATE_ID, _TWICE)
                    yield from self._ended(sample)
                    sample = _Sample(self.next_number(), key, fault=fault)
                sample.add(part, member.data)
        yield from self._ended(sample)
        yield from self._waiting.values()

    def _named(self, name: str, current: _Sample | None, following: tar.Member | tar.Damage | None) -> tuple[str, str]:
        """The key and the suffix in the name of a member: a suffix of two parts unless the key has parts of its own."""
        stem, part = _split(name)
        key, _, word = stem.rpartition(".")
        if part != "txt" or not files.name_of(key) or key.endswith("/") or not self._is_word(word):
            return stem, part
        beside = _split(following.name)[0] if isinstance(following, tar.Member) else ""
        is_a_key = (current is not None and current.key == stem) or stem in (beside, *self._waiting)
        return (stem, part) if is_a_key else (key, f"{word.lower()}.txt")

    def _is_word(self, word: str) -> bool:
        return word.lower() in self._words or word in self._words or bool(languages.known_code(word))

    def _ended(self, sample: _Sample | None) -> Iterator[_Sample]:
        """What is whole now that the run of `sample` has ended; what is not waits for the parts that it lacks."""
        if sample is None:
            return
        earlier = self._waiting.pop(sample.key, None)
        if earlier is not None:
            self._held -= earlier.size
            if earlier.parts.keys() & sample.parts.keys():
                yield earlier
            else:
                for part, data in sample.parts.items():
                    earlier.add(part, data)
                earlier.fault = earlier.fault or sample.fault
                sample = earlier
        if sample.is_whole or not sample.parts:
            yield sample
            return
        self._waiting[sample.key] = sample
        self._held += sample.size
        while self._held > HELD_LIMIT:
            first = self._waiting.pop(next(iter(self._waiting)))
            self._held -= first.size
            first.fault = Rejected(Reason.DAMAGED_SHARD, _FAR)
            yield first


def _split(name: str) -> tuple[str, str]:
    """The name of a member up to its last dot, and what follows it; names in either Unicode form are one."""
    folder, slash, last = unicodedata.normalize("NFC", name).removeprefix("./").rpartition("/")
    stem, dot, part = last.rpartition(".")
    return (folder + slash + stem, part.lower()) if dot else (folder + slash + last, "")


def _with_next(members: Iterator[tar.Member | tar.Damage]) -> Iterator[tuple[Any, Any]]:
    """Each with the one that follows it, None after the last."""
    return itertools.pairwise(itertools.chain(members, [None]))


def _is_image(part: str) -> bool:
    return part.rpartition(".")[2] in readers.IMAGE_SUFFIXES


def _is_text(part: str) -> bool:
    return part == "txt" or part.endswith(".txt")


def _is_of_macos(member: tar.Member) -> bool:
    """Whether a member holds what macOS keeps beside files: resource forks (AppleDouble), looks of folders."""
    name = files.name_of(member.name)
    return name == ".DS_Store" or (name.startswith("._") and member.data.startswith(_APPLE_DOUBLE))


def _item(sample: _Sample, options: ReadOptions) -> Item:
    fixes: collections.Counter[str] = collections.Counter()
    key, fields = readers.clean(sample.key), options.fields
    if sample.fault is not None:
        raise sample.fault
    row = _metadata(sample, options, fixes)
    images = [part for part in sample.parts if _is_image(part)]
    if not images:
        why = readers.failure(row) or "no member of this name with an image suffix"
        raise Rejected(Reason.MISSING_IMAGE, f"{key}: {why}")
    fixes["image_extra_ignored"] += len(images) - 1
    texts = list(_texts(sample, options, fixes))
    if "txt" in sample.parts:  # it and the first field are the same caption
        row.pop(next(iter(fields.texts)), None)
    if not texts and not any(row.get(name) is not None for name in fields.texts):
        raise Rejected(Reason.MISSING_TEXT, f"{key}: neither .txt nor a field {' or '.join(fields.texts)} in .json")
    row |= {fields.image: f"{key}.{images[0]}"} | ({} if fields.id else {"id": key})
    item = readers.item_of_row(sample.number, row, options, texts)
    return dataclasses.replace(item, data=sample.parts[images[0]], fixes={**item.fixes, **fixes})


def _metadata(sample: _Sample, options: ReadOptions, fixes: collections.Counter[str]) -> dict[str, Any]:
    """What `KEY.json` says; a bad one counts only where the sample has no text of its own."""
    if "json" not in sample.parts:
        return {}
    row = files.json_object(files.text_of(sample.parts["json"], options.encoding))
    if not isinstance(row, Rejected):
        return row
    if not any(map(_is_text, sample.parts)):
        raise row
    fixes["json_malformed_ignored"] += 1
    return {}


def _texts(sample: _Sample, options: ReadOptions, fixes: collections.Counter[str]) -> Iterator[Text]:
    """The texts in members of their own; `txt` is of the kind of the first field that is asked for."""
    kinds = options.fields.texts
    for part, data in sample.parts.items():
        name = next(iter(kinds)) if part == "txt" else part.removesuffix(".txt")
        if part == "json" or _is_image(part):
            continue
        if not _is_text(part) and part not in kinds:
            fixes["member_ignored"] += 1
            continue
        text = readers.clean(files.text_of(data, options.encoding))
        language = "" if name in kinds else languages.known_code(name)
        yield Text(readers.DEFAULT_KIND, language, text) if language else Text(kinds.get(name, name), "", text)
