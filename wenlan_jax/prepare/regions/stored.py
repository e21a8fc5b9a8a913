"""Which stores of detections are known, and how the entry of an image is found in one."""

from __future__ import annotations

import dataclasses
import functools
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from wenlan_jax.config.options import REQUIRED, faults, option
from wenlan_jax.data.records import Record
from wenlan_jax.prepare import name_templates, raw_items
from wenlan_jax.prepare.raw_items import ReadError
from wenlan_jax.prepare.regions import butd, npz, uniter
from wenlan_jax.prepare.regions.detections import DetectionError, Detections, Selection

_MOST_DIGITS = 1000  # of a number in a name; Python refuses to read a few thousand
_NUMBER = re.compile(r"\d+")


@runtime_checkable
class RegionStore(Protocol):
    """Detections by key; picklable, and opened once in each process."""

    def get(self, key: str) -> Detections | None:
        """Reads the detections of a key; None for a key that has none."""
        ...

    def some_keys(self) -> list[str]:
        """Lists a few keys, for messages."""
        ...

    def stamps(self) -> list[list[int]]:
        """Lists size and time of change of its files, where they are few."""
        ...


@dataclasses.dataclass(frozen=True)
class StoreFormat:
    """A kind of store.

    Attributes:
        meaning: what it is, for the command line.
        open: opens it, given its place and whether links are followed.
        key: the usual template of a key.
    """

    meaning: str
    open: Callable[[str, bool], RegionStore]
    key: str


def _without_links(open_store: Callable[[str], RegionStore]) -> Callable[[str, bool], RegionStore]:
    """How a store is opened that has no files of entries, which might be links."""
    return lambda place, links: open_store(place)


FORMATS: Mapping[str, StoreFormat] = {
    "butd_tsv": StoreFormat(
        "bottom-up attention or LXMERT .tsv files, a path or a pattern", _without_links(butd.Tsv), "{number}"
    ),
    "uniter_npz": StoreFormat(
        "a folder of UNITER's .npz files", functools.partial(npz.NpzFolder, interpret=uniter.detections), "{stem}"
    ),
    "uniter_lmdb": StoreFormat("an LMDB directory of UNITER (extra `lmdb`)", _without_links(uniter.Lmdb), "{stem}.npz"),
    "brivl_npz": StoreFormat(
        "a folder of BriVL's .npz files with boxes",
        functools.partial(npz.NpzFolder, interpret=npz.brivl_boxes),
        "{path}",
    ),
}


@dataclasses.dataclass(frozen=True)
class StoredRegions:
    """A store in use.

    Attributes:
        selection: which boxes are taken.
    """

    place: str = option(
        REQUIRED, "where regions are stored; they replace the boxes of records", read=str, metavar="PLACE"
    )
    file_format: str = option(
        REQUIRED,
        "; ".join(f"{name}: {of.meaning}" for name, of in FORMATS.items()),
        among=lambda: tuple(FORMATS),
    )
    key: str = option(
        "",
        "name of an image there, of {id} (of the record), {path} (of the image, or the id, without the ending), "
        "{stem} (its last part) and {number} (the last digits of the stem, as in coco_train2014_{number:012d})",
        read=str,
        metavar="TEMPLATE",
        usual="by format",
    )
    selection: Selection = dataclasses.field(default_factory=Selection)
    links: bool = option(False, "follow links that lead out of PLACE")

    @property
    def template(self) -> str:
        """The template of the key, the usual one where none is given."""
        return self.key or FORMATS[self.file_format].key

    def open(self) -> RegionStore:
        """Opens the store."""
        return FORMATS[self.file_format].open(self.place, self.links)

    def check(self) -> None:
        """Checks that the store is there and that the options make sense.

        Raises:
            ReadError: if it is not there.
            DetectionError: for a selection that makes no sense.
        """
        self.selection.check()
        for fault in faults(self):
            raise ReadError(f"regions: {fault}")
        name_templates.check("--regions-key (--key of `wenlan regions`)", self.template, _fields("0", "0", "0", "0"))
        if not self.open().some_keys():
            raise ReadError(f"{self.place}: holds no regions of format {self.file_format}")

    def key_of(self, record_id: str, image: str) -> str:
        """Makes the key of an image.

        Args:
            record_id: of its record.
            image: its name, where it has one besides the record's id.

        Returns:
            The key; "" for one that no entry has.
        """
        path = _without_suffix(image or record_id)
        stem = posixpath.basename(path)
        digits = _NUMBER.findall(stem)
        if "{number" in self.template and not (digits and len(digits[-1]) <= _MOST_DIGITS):
            return ""  # which no entry has
        return self.template.format(**_fields(record_id, path, stem, digits[-1] if digits else "0"))

    def find(self, record_id: str, image: str = "") -> Detections | None:
        """Reads what is stored of an image.

        Args:
            record_id: of its record.
            image: its name, where it has one besides the record's id.

        Returns:
            The detections; None for nothing.

        Raises:
            DetectionError: for a damaged entry.
        """
        key = self.key_of(record_id, image)
        return self.open().get(key) if key else None

    def knowing(self, images: Iterable[tuple[str, str, str]]) -> StoredRegions:
        """Prepares the store for a job with some images.

        Args:
            images: (record id, image, what tells it from others) of each.

        Returns:
            A store that refuses an entry that several of them would take.
        """
        if "{id}" in self.template:
            return self  # no two records have one id
        owners: dict[str, int] = {}
        shared: set[str] = set()
        for record_id, image, identity in images:
            key, owner = self.key_of(record_id, image), hash(identity)
            if owners.setdefault(key, owner) != owner:
                shared.add(key)
        return _Knowing(self.place, self.file_format, self.key, self.selection, self.links, frozenset(shared))

    @property
    def batch_size(self) -> int:
        """Records to ask about at once; entries are read one by one."""
        return 1

    def find_all(self, records: Sequence[Record]) -> list[Detections | DetectionError | None]:
        """Reads what is stored of each record, or why that is of no use."""
        return [self._found(record) for record in records]

    def _found(self, record: Record) -> Detections | DetectionError | None:
        try:
            return self.find(record.id)
        except DetectionError as error:
            return error

    def stamps(self) -> list[list[int]]:
        """Size and time of change of its files, where they are few."""
        return self.open().stamps()

    def describe(self) -> dict[str, Any]:
        """Says what the arrays of its records are."""
        return {"format": self.file_format}

    def unmatched(self) -> str:
        """Says what to tell when none of the images is in the store."""
        there = ", ".join(self.open().some_keys())
        return f"{self.place}: has none of these images; they are looked for as {self.template!r}, entries are {there}"


def _fields(record_id: str, path: str, stem: str, number: str) -> dict[str, str | int]:
    """What a template of a key may name."""
    return {"id": record_id, "path": path, "stem": stem, "number": int(number)}


def _without_suffix(name: str) -> str:
    """A name up to the ending of an image; ids of archives have none, but perhaps dots."""
    path, ending = posixpath.splitext(name)
    return path if ending[1:].lower() in raw_items.IMAGE_SUFFIXES else name


@dataclasses.dataclass(frozen=True)
class _Knowing(StoredRegions):
    """A store in a job in which several images have each of the keys `shared`."""

    shared: frozenset[str] = frozenset()

    def find(self, record_id: str, image: str = "") -> Detections | None:
        found, key = super().find(record_id, image), self.key_of(record_id, image)
        if found is not None and key in self.shared:
            raise DetectionError(
                f"entry {key!r} is that of several of these images; tell them apart by the template of the key, or "
                "give each source regions of its own"
            )
        return found
