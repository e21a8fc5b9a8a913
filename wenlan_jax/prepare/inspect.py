"""What is in a data set: counts and measures of a packed directory, or of anything that `wenlan pack` takes.

Every image is opened, by its header or whole. Nothing is written but the contact sheet, and of raw data no record is
made: items that would be rejected are counted by reason, as `wenlan pack` does.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from wenlan_jax.config import sections
from wenlan_jax.config.options import REQUIRED, faults, option
from wenlan_jax.data import headers, images, named_sets, sources
from wenlan_jax.data.records import Question, Region, Text
from wenlan_jax.prepare import contact_sheet, image_places, ingest, raw_images, raw_items
from wenlan_jax.prepare.formats import files, registry
from wenlan_jax.prepare.inspect_findings import Findings
from wenlan_jax.prepare.raw_items import Fault, Reason, Rejected
from wenlan_jax.util.errors import WenlanError

T = TypeVar("T")

_WRONG_SIZE = "its record says {} x {} pixels, the image {} x {}"


class InspectError(WenlanError, ValueError):
    """A place that holds no data set; the message says what would be one."""


@dataclasses.dataclass(frozen=True)
class InspectOptions:
    """What to look at, and how closely.

    `images`, `allow_remote`, `allow_links`, `file_format` and `read` are for raw data only, as for `wenlan pack`.

    Attributes:
        read: how raw text is understood.

    Raises:
        InspectError: for a limit or number of cards below 1.
    """

    place: str = option(
        REQUIRED,
        "packed directory, name of a set, or raw file, folder or URL",
        read=str,
        metavar="PATH",
        positional=True,
    )
    data_dir: Path = option(Path(sections.DataConfig.dir), "where sets lie", metavar="DIR")
    images: str | None = option(None, "directory or URL of the images", read=str, usual="that of PATH")
    allow_remote: bool = image_places.allow_remote()
    allow_links: bool = image_places.allow_links()
    file_format: str | None = option(
        None, "of PATH", among=lambda: tuple(registry.FORMATS), usual="found from its name and content"
    )
    read: raw_items.ReadOptions = dataclasses.field(default_factory=raw_items.ReadOptions)
    decode: bool = option(False, "decode every image instead of reading its header")
    limit: int | None = option(None, "look at N records, evenly spaced, instead of all", low=1, metavar="N")
    cards: int = option(64, "images of the contact sheet, at most", low=1)

    def __post_init__(self) -> None:
        for fault in faults(self):
            raise InspectError(fault)


@dataclasses.dataclass(frozen=True)
class InspectedRecord:
    """One record or draft. `load` gives the bytes of its image, and raises Rejected where it cannot.

    `size` is what the record says of its image, `widths` those of the arrays of its regions.
    """

    name: str
    split: str
    source: str
    texts: tuple[Text, ...]
    regions: tuple[Region, ...]
    questions: tuple[Question, ...]
    load: Callable[[], bytes]
    size: tuple[int, int] | None = None
    widths: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Packed:
    """The records of a packed directory."""

    layout = "packed"

    def __init__(self, place: str, data_dir: Path) -> None:
        self.records = sources.split_sizes(place, data_dir)
        self._sources = [
            (split, sources.open_source(place, split, data_dir)) for split, count in self.records.items() if count
        ]

    def count(self, limit: int | None) -> int | None:
        """How many `look` gives."""
        total = sum(self.records.values())
        return min(limit or total, total)

    def look(self, limit: int | None, broken: Callable[[Fault], None]) -> Iterator[InspectedRecord]:
        """The records, `limit` of them evenly spaced; nothing is `broken` before its image is opened."""
        wanted, before = _evenly(sum(self.records.values()), limit), 0
        for split, source in self._sources:
            for row in wanted(before, before + len(source)):
                record = source[row - before]
                arrays = {"features": record.region_features, "classes": record.region_classes}
                yield InspectedRecord(
                    record.id,
                    split,
                    record.source,
                    record.texts,
                    record.regions,
                    record.questions,
                    _giving(record.image),
                    (record.width, record.height),
                    {name: rows.shape[1] for name, rows in arrays.items() if rows is not None},
                )
            before += len(source)


class RawInputs:
    """Inputs of `wenlan pack` as they come; grouped by image within a shard."""

    def __init__(self, options: InspectOptions) -> None:
        files.check_there(options.place)
        self.layout, self._shards = registry.shards([options.place], options.file_format, options.read)
        place = options.images if options.images is not None else files.folder_of(options.place)
        if not files.is_url(place) and not os.path.isdir(place):
            raise InspectError(f"{place}: no such image directory; set --images")
        self._root = image_places.Root(place, options.allow_remote, options.allow_links)
        self.records: dict[str, int] = {}

    @functools.cached_property
    def _total(self) -> int:
        return sum(not isinstance(entry, Fault) for entry in self._entries())

    def count(self, limit: int | None) -> int | None:
        """How many `look` gives; None where that is not known before, which is without `limit`."""
        return min(limit, self._total) if limit else None

    def look(self, limit: int | None, broken: Callable[[Fault], None]) -> Iterator[InspectedRecord]:
        """The drafts, `limit` of them evenly spaced, for which all is read twice; `broken` takes what is none."""
        wanted = _evenly(self._total, limit) if limit else None
        counts: collections.Counter[str] = collections.Counter()
        number = 0
        for entry in self._entries():
            if isinstance(entry, Fault):
                broken(entry)
                continue
            counts[entry.split] += 1
            if wanted is None or wanted(number, number + 1):
                yield self._seen(entry)
            number += 1
            self.records = dict(counts)

    def _entries(self) -> Iterator[ingest.Draft | Fault]:
        for shard in self._shards:
            prefix = f"{shard.name}/" if len(self._shards) > 1 else ""
            items = shard.read_up_to_damage(must_begin=False, item=shard.name)
            yield from ingest.Grouping(self._root, {}, prefix).group(items)

    def _seen(self, draft: ingest.Draft) -> InspectedRecord:
        def load() -> bytes:
            data = draft.data
            return raw_images.fetch(self._root, ingest.places_of(draft.image))[1] if data is None else data

        return InspectedRecord(
            draft.id, draft.split, draft.source, tuple(draft.texts), draft.regions, tuple(draft.questions), load
        )


def inspect(options: InspectOptions) -> tuple[Findings, list[contact_sheet.Card]]:
    """Looks at a data set.

    Args:
        options: what to look at, and how closely.

    Returns:
        What was found, and the cards of a contact sheet.

    Raises:
        InspectError: when there is no data set to look at.
        ReadError: when its files cannot be read.
        SourceError: when a packed directory cannot be read.
    """
    data: Packed | RawInputs = (
        Packed(options.place, options.data_dir) if is_packed(options.place) else RawInputs(options)
    )
    found = Findings(options.place, data.layout, options.decode)
    cards: Evenly[contact_sheet.Card] = Evenly(options.cards, data.count(options.limit))
    for number, seen in enumerate(data.look(options.limit, found.add_broken)):
        found.add_texts(seen.source, seen.texts)
        found.add_marks(seen.regions, seen.questions, seen.widths)
        try:
            content = _open(seen, options.decode, found)
        except Rejected as rejected:
            found.add_broken(Fault(0, rejected.reason, rejected.detail, seen.name))
            continue
        if cards.next_is_wanted(number):
            with contextlib.suppress(images.CorruptImage):  # counted where images are decoded
                cards.add(_card(seen, content))
    found.records = data.records
    if not found.looked_at and not found.broken:
        raise InspectError(f"{options.place}: holds nothing")
    if not found.looked_at and set(found.broken) == {Reason.DAMAGED_SHARD}:
        raise InspectError(f"{options.place}: nothing of it can be read; {found.samples[Reason.DAMAGED_SHARD][0]}")
    return found, cards.kept


def is_packed(place: str) -> bool:
    """Whether `place` is a packed directory or the name of a data set that can be."""
    folder = Path(place)
    prepared = (folder / "dataset_info.json").is_file() or any(folder.glob("*/dataset_info.json"))
    return prepared or named_sets.is_named(place)


def _open(seen: InspectedRecord, decode: bool, found: Findings) -> bytes:
    """The bytes of an image, after its header and, with `decode`, all of it were found to be sound."""
    data = seen.load()
    raw_images.check_not_empty(data)
    try:
        header = headers.read(data)
    except headers.UnknownSize as error:
        raise Rejected(Reason.CORRUPT_IMAGE, str(error)) from error
    if seen.size is not None and seen.size != (header.width, header.height):
        raise Rejected(Reason.BAD_VALUE, _WRONG_SIZE.format(*seen.size, header.width, header.height))
    raw_images.check_size(header, raw_images.ImageOptions().max_pixels)
    if decode:
        raw_images.decode(data, header)
    found.add_image(header, len(data))
    return data


def _giving(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _card(seen: InspectedRecord, data: bytes) -> contact_sheet.Card:
    labels = tuple(region.label for region in seen.regions if region.label)
    return contact_sheet.Card(seen.name, contact_sheet.thumbnail(data, seen.regions), seen.texts, labels)


def _evenly(total: int, limit: int | None) -> Callable[[int, int], list[int]]:
    """The chosen numbers in a range: all, or `limit` of `total` that are evenly spaced."""
    if limit is None or limit >= total:
        return lambda start, end: list(range(start, end))

    def chosen(start: int, end: int) -> list[int]:
        first, last = (-(-bound * limit // total) for bound in (start, end))
        return [index * total // limit for index in range(first, last)]

    return chosen


class Evenly(Generic[T]):
    """Keeps `most` or fewer of a stream, evenly spaced.

    Of a stream of `total`, `most` are wanted, and where one is missing the next. Of one of unknown length every other
    is dropped where they are more.
    """

    def __init__(self, most: int, total: int | None = None) -> None:
        self._most, self._total, self._stride, self._offered = most, total, 1, 0
        self.kept: list[T] = []

    def next_is_wanted(self, number: int = 0) -> bool:
        """Whether the one of this number in the stream is to be added, of those without a fault; counts them."""
        if self._total is not None:
            return len(self.kept) < min(self._most, -(-(number + 1) * self._most // max(1, self._total)))
        self._offered += 1
        return (self._offered - 1) % self._stride == 0

    def add(self, one: T) -> None:
        """Keeps one that was wanted."""
        self.kept.append(one)
        if len(self.kept) > self._most:
            self.kept = self.kept[::2]
            self._stride *= 2
