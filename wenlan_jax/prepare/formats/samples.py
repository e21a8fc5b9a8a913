"""Which members of an archive are one sample: those of one key, the name up to its last dot, wherever they lie.

An archive is read twice: once for its names, which tell how many parts a key has, once for its members. So a sample is
given when its last part was read and not before, and what comes far from the rest of its sample is never lost.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Collection, Container, Iterable, Iterator, Sequence

from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.formats import files, tar
from wenlan_jax.prepare.raw_items import Reason, Rejected
from wenlan_jax.util import languages

HELD_LIMIT = 1 << 29
"""Bytes of samples that wait for parts which are no neighbours; the first of them are given up beyond it."""
_TWICE = "its key comes twice before it is whole, so that its parts cannot be told from those of the other"
_FAR = "its other parts are too far away; make the archive again with tar --sort=name"
APPLE_DOUBLE = b"\0\5\x16\7"


@dataclasses.dataclass
class Sample:
    """The members of one key, by what follows the key; `number` counts the samples of a shard as they begin."""

    number: int
    key: str
    parts: dict[str, bytes] = dataclasses.field(default_factory=dict)
    fault: Rejected | None = None
    seen: set[str] = dataclasses.field(default_factory=set)
    size: int = 0

    def add(self, part: str, data: bytes) -> None:
        """One more member; of a sample that is refused nothing is kept."""
        self.seen.add(part)
        if self.fault is None and self.size + len(data) > tar.MEMBER_LIMIT:
            told = f"its members have more than {tar.MEMBER_LIMIT} bytes together"
            self.refuse(Rejected(Reason.OVERSIZED_IMAGE, told))
        elif self.fault is None:
            self.parts[part] = data
            self.size += len(data)

    def refuse(self, fault: Rejected) -> None:
        """Refuses the sample for `fault`."""
        self.fault = fault
        self.parts.clear()
        self.size = 0


class Names:
    """What the names in an archive tell: which member is what part of which key, and which keys are whole when.

    words: those that may stand between a key and `.txt`.
    """

    def __init__(self, members: Iterable[tar.Member | tar.Damage], words: Container[str]) -> None:
        self._words = words
        names: list[tuple[str, str] | None] = []
        self.macos_members = 0
        for one in members:
            is_passed_over = isinstance(one, tar.Member) and is_of_macos(one)
            self.macos_members += is_passed_over
            names.append(None if isinstance(one, tar.Damage) or is_passed_over else _split(one.name))
        self._keys = {name[0] for name in names if name is not None and name[1] != "txt"}
        runs: dict[str, list[dict[str, None]]] = {}
        torn: set[str] = set()  # keys with a part that comes again before the run that it is in is whole
        last: str | None = None
        for name in names:
            if name is not None:
                key, part = self._named(*name)
                of_key = runs.setdefault(key, [])
                if key == last and part not in of_key[-1]:
                    of_key[-1][part] = None
                    continue
                if key == last and not _is_whole(of_key[-1]):
                    torn.add(key)
                of_key.append({part: None})
                last = key
        self._counts = {key: _parts_in(of_key) for key, of_key in runs.items()}
        self._mixed = torn | {key for key, count in self._counts.items() if not count and _are_mixed(runs[key])}

    def named(self, name: str) -> tuple[str, str]:
        """The key and the suffix in the name of a member: a suffix of two parts unless the key has parts of its own."""
        return self._named(*_split(name))

    def _named(self, stem: str, part: str) -> tuple[str, str]:
        key, _, word = stem.rpartition(".")
        if part != "txt" or not files.name_of(key) or key.endswith("/") or not self._is_word(word):
            return stem, part
        return (stem, part) if stem in self._keys else (key, f"{word.lower()}.txt")

    def _is_word(self, word: str) -> bool:
        return word.lower() in self._words or word in self._words or bool(languages.known_code(word))

    def parts_of(self, key: str) -> int:
        """How many members make the one sample of a key; 0 where the key comes several times."""
        return self._counts.get(key, 0)

    def is_mixed(self, key: str) -> bool:
        """Whether a key comes several times and its parts cannot be told apart."""
        return key in self._mixed


class Gathering:
    """Joins the members of an archive to samples, by its names."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._waiting: dict[str, Sample] = {}
        self._given_up: set[str] = set()
        self._held = self._number = 0

    def next_number(self) -> int:
        """The number of what begins now."""
        self._number += 1
        return self._number

    def samples(self, members: Iterable[tar.Member | tar.Damage]) -> Iterator[Sample | tar.Damage]:
        """The samples as they become whole, and what was lost between them."""
        run: Sample | None = None  # of a key that comes several times
        for member in members:
            if isinstance(member, tar.Damage):
                yield member
            elif not is_of_macos(member):
                key, part = self._names.named(member.name)
                if run is not None and (run.key != key or part in run.seen):
                    yield run
                    run = None
                if self._names.parts_of(key):
                    yield from self._joined(key, part, member.data)
                else:
                    run = run or self._started(key)
                    run.add(part, member.data)
        yield from [] if run is None else [run]
        yield from self._waiting.values()

    def _started(self, key: str) -> Sample:
        sample = Sample(self.next_number(), key)
        if self._names.is_mixed(key):
            sample.refuse(Rejected(Reason.DUPLICATE_ID, _TWICE))
        return sample

    def _joined(self, key: str, part: str, data: bytes) -> Iterator[Sample]:
        """Adds a member to the one sample of its key, which is given with its last."""
        if key in self._given_up:
            return
        sample = self._waiting.get(key) or self._started(key)
        self._waiting[key] = sample
        self._held -= sample.size
        sample.add(part, data)
        self._held += sample.size
        if len(sample.seen) == self._names.parts_of(key):
            yield self._taken(key)
        while self._held > HELD_LIMIT:
            first = self._taken(next(iter(self._waiting)))
            self._given_up.add(first.key)
            first.refuse(Rejected(Reason.DAMAGED_SHARD, _FAR))
            yield first

    def _taken(self, key: str) -> Sample:
        sample = self._waiting.pop(key)
        self._held -= sample.size
        return sample


def _split(name: str) -> tuple[str, str]:
    """The name of a member up to its last dot, and what follows it; names in either Unicode form are one."""
    folder, slash, last = unicodedata.normalize("NFC", name).removeprefix("./").rpartition("/")
    stem, dot, part = last.rpartition(".")
    return (folder + slash + stem, part.lower()) if dot else (folder + slash + last, "")


def _is_whole(parts: Collection[str]) -> bool:
    """Whether a sample of these parts has all that it needs."""
    return any(map(is_image, parts)) and any(is_text(part) or part == "json" for part in parts)


def _parts_in(runs: Sequence[Collection[str]]) -> int:
    """The parts of neighbours of one key, together; 0 where one comes twice."""
    count = sum(map(len, runs))
    return count if len(set().union(*runs)) == count else 0


def _are_mixed(runs: Sequence[Collection[str]]) -> bool:
    """Whether neighbours of one key lack parts, and others have parts that may be these."""
    whole = set().union(*filter(_is_whole, runs))
    return any(not whole.issuperset(run) for run in runs)


def is_image(part: str) -> bool:
    """Whether a part is an image."""
    return part.rpartition(".")[2] in raw_items.IMAGE_SUFFIXES


def is_text(part: str) -> bool:
    """Whether a part is a text."""
    return part == "txt" or part.endswith(".txt")


def is_of_macos(member: tar.Member) -> bool:
    """Whether a member holds what macOS keeps beside files: resource forks (AppleDouble), looks of folders."""
    name = files.name_of(member.name)
    return name == ".DS_Store" or (name.startswith("._") and member.data.startswith(APPLE_DOUBLE))
