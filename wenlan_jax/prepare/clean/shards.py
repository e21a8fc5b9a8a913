"""What a cleaning job reads, cut into units: shards of the sources, and the evaluation sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wenlan_jax.data import records, sources
from wenlan_jax.prepare import raw_items
from wenlan_jax.prepare.clean import signatures
from wenlan_jax.prepare.clean.options import CleanOptions
from wenlan_jax.prepare.formats import files
from wenlan_jax.prepare.image_places import Root
from wenlan_jax.prepare.raw_images import MAX_BYTES
from wenlan_jax.util import languages
from wenlan_jax.util.errors import WenlanError

LISTED_LINES = 4096
"""Lines of an evaluation list in one unit."""


class CleanError(WenlanError, ValueError):
    """A cleaning job that cannot be done; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class RecordShard:
    """Rows of a split of a packed directory, or lines of a *.jsonl file.

    Attributes:
        place: the directory or file.
        split: of the directory; "" for a file.
        start: the first row.
        stop: the row after the last.
        role: EVALUATION, PROTECTED or TRAINING of `signatures`.
        source: the number of the source as named, -1 for evaluation sets.
    """

    place: str
    split: str
    start: int
    stop: int
    role: int
    source: int = -1

    @property
    def name(self) -> str:
        """The name of the shard, for progress lines."""
        return f"{Path(self.place).name}/{self.split}[{self.start}:{self.stop}]"

    def read(self) -> Iterator[records.Record]:
        """The records in order. A listed item has neither sizes nor a source, and perhaps an empty image."""
        if not self.split:
            yield from _listed(Path(self.place), self.start, self.stop)
            return
        source = sources.TfdsSource(Path(self.place), self.split, Path(self.place).name)
        for row in range(self.start, self.stop):
            yield source[row]


def plan(places: Sequence[Path], options: CleanOptions) -> list[RecordShard]:
    """Lists all units in order of precedence: evaluation sets, protected splits, the rest.

    Within each, units are in the order in which the sources are named.

    Args:
        places: the packed directories.
        options: name evaluation sets and protected splits.

    Returns:
        The units.

    Raises:
        CleanError: for what cannot be read.
        SourceError: likewise.
    """
    if not places:
        raise CleanError("no source to clean; name at least one packed directory")
    wanted = set(options.leakage.own_splits)
    shards = [
        shard for number, place in enumerate(places) for shard in _of_directory(place, number, wanted, evaluation=False)
    ]
    evaluation = [shard for name in options.leakage.sets for shard in _of_set(Path(name))]
    return evaluation + sorted(shards, key=lambda shard: shard.role)  # sorting keeps the order of equal roles


def _of_set(place: Path) -> list[RecordShard]:
    if place.suffix != ".jsonl":
        return list(_of_directory(place, -1, set(), evaluation=True))
    if not place.is_file():
        raise CleanError(f"{place}: no such evaluation set; correct leakage.sets")
    with place.open("rb") as file:
        lines = sum(1 for _ in file)
    steps = range(0, lines, LISTED_LINES)
    return [RecordShard(str(place), "", s, min(s + LISTED_LINES, lines), signatures.EVALUATION) for s in steps]


def _of_directory(place: Path, number: int, protected: set[str], evaluation: bool) -> Iterator[RecordShard]:
    splits: Any = sources.open_builder(place).info.splits
    for split in splits:
        role = signatures.PROTECTED if split in protected else signatures.TRAINING
        start = 0
        for length in splits[split].shard_lengths:
            stop = start + length
            yield RecordShard(str(place), split, start, stop, signatures.EVALUATION if evaluation else role, number)
            start = stop


def _listed(path: Path, start: int, stop: int) -> Iterator[records.Record]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if start < number <= stop and line.strip():
                yield _item(path, number, files.text_of(line, "utf-8"))


def _item(path: Path, number: int, line: str) -> records.Record:
    where = f"{path}: line {number}"
    try:
        value = raw_items.json_value(line)
        image = Root(str(path.parent), options=()).read(str(value["image"]), MAX_BYTES) if value.get("image") else b""
        said = value.get("texts", [])
        said = ([said] if isinstance(said, str) else list(said)) + ([value["caption"]] if "caption" in value else [])
    except (raw_items.ReadError, raw_items.Rejected) as error:
        raise CleanError(f"{where}: {error}; correct the list") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise CleanError(f"{where}: an object with `image` and `caption` or `texts` is needed ({error})") from error
    if not all(isinstance(text, str) for text in said):
        raise CleanError(f"{where}: `texts` must be strings")
    try:
        language = languages.code(str(value.get("language", "")))
    except ValueError as error:
        raise CleanError(f"{where}: {error}") from error
    texts = tuple(records.Text("", language, text) for text in said)
    return records.Record(str(value.get("id", number)), image, 0, 0, "", texts)
