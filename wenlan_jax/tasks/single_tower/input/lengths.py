"""How long the texts and how many the regions of every record are, from which buckets of equal shapes are made.

Reading a whole source takes its time, so the table is made once, by several processes, and kept in a cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt16

from wenlan_jax.data.mixture import WantedTexts
from wenlan_jax.tasks.single_tower.input.regions import RegionReader
from wenlan_jax.util import atomic_files, json_files, progress_line, resumable_jobs
from wenlan_jax.util.errors import WenlanError

if TYPE_CHECKING:
    from wenlan_jax.data.sources import Source
    from wenlan_jax.data.text import Tokenizer

ROWS_PER_UNIT = 4096
SAMPLED_ROWS = 64
"""Records that stand for the content of a source in the name of its cached table."""

_TABLE, _JOB, _WAIT_SECONDS = "lengths.npz", "lengths", 1.0


class LengthsError(WenlanError, ValueError):
    """Lengths that a table cannot hold."""


@dataclasses.dataclass(frozen=True)
class Lengths:
    """The lengths of a source's records.

    Attributes:
        languages: of the wanted texts, sorted; the columns of `tokens`.
        texts: wanted texts in each language.
        tokens: of the longest wanted text of a row in a language, at most the asked length; 0 where there is none.
        regions: of a row, at most as many as asked for; 0 where it has none that can be used.
    """

    languages: tuple[str, ...]
    texts: Int64[np.ndarray, " languages"]
    tokens: UInt16[np.ndarray, "rows languages"]
    regions: UInt16[np.ndarray, " rows"]

    def counts(self) -> dict[str, int]:
        """Counts the wanted texts by language."""
        return dict(zip(self.languages, self.texts.tolist(), strict=True))

    def of(self, language: str) -> UInt16[np.ndarray, " rows"]:
        """Returns the tokens of every row in a language."""
        column = self.languages.index(language)
        tokens: UInt16[np.ndarray, " rows"] = self.tokens[:, column]
        return tokens

    def usable(self, language: str) -> Int64[np.ndarray, " usable"]:
        """Lists the rows with regions and a text in a language; none for a language that no text is in."""
        if language not in self.languages:
            return np.zeros(0, np.int64)
        return np.flatnonzero((self.of(language) > 0) & (self.regions > 0))


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is measured.

    Attributes:
        source: the records.
        wanted: which of their texts.
        tokenizer: counts the tokens.
        text_length: tokens of a text at most.
        regions: which of their regions.

    Raises:
        LengthsError: for lengths that the table cannot hold.
    """

    source: Source
    wanted: WantedTexts
    tokenizer: Tokenizer
    text_length: int
    regions: RegionReader

    def __post_init__(self) -> None:
        if max(self.text_length, self.regions.largest) > np.iinfo(np.uint16).max:
            raise LengthsError(
                f"texts of {self.text_length} tokens or {self.regions.largest} regions: at most "
                f"{np.iinfo(np.uint16).max} are counted"
            )

    def identity(self) -> dict[str, Any]:
        """Lists what the table depends on; the content of a source is known by its length and some of its records."""
        rows = np.unique(np.linspace(0, len(self.source) - 1, SAMPLED_ROWS).astype(int)).tolist()
        sample = [self.source[row] for row in rows]
        content = [(record.id, record.texts, record.regions, record.width, record.height) for record in sample]
        return {
            "source": self.source.name,
            "rows": len(self.source),
            "sample": hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest(),
            "wanted": dataclasses.asdict(self.wanted),
            "tokenizer": self.tokenizer.fingerprint,
            "text_length": self.text_length,
            "regions": [self.regions.features, self.regions.boxes, self.regions.grid, self.regions.limit],
        }

    def of(self, rows: range) -> Lengths:
        """Measures some rows.

        Args:
            rows: of the source.

        Returns:
            Their table.
        """
        found: list[tuple[int, str, str]] = []
        regions = np.zeros(len(rows), np.uint16)
        for place, row in enumerate(rows):
            record = self.source[row]
            regions[place] = self.regions.count(record)
            found += [(place, text.language, text.text) for text in self.wanted.of(record)]
        languages = tuple(sorted({language for _, language, _ in found}))
        columns = np.array([languages.index(language) for _, language, _ in found], int)
        _, mask = self.tokenizer.encode([text for _, _, text in found], self.text_length)
        tokens = np.zeros((len(rows), len(languages)), np.uint16)
        np.maximum.at(tokens, (np.array([place for place, _, _ in found], int), columns), mask.sum(1).astype(np.uint16))
        return Lengths(languages, np.bincount(columns, minlength=len(languages)), tokens, regions)


def load(measure: Measure, cache: Path, workers: int) -> Lengths:
    """Reads the table of lengths from a cache, or makes it there.

    Work that was cut off is continued, and a table that another process is making is waited for. A damaged one is made
    anew, which a line on stderr says.

    Args:
        measure: what is measured.
        cache: the folder of the tables.
        workers: processes that measure; 0 for this one.

    Returns:
        The table.
    """
    identity = measure.identity()
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    place = cache / f"lengths-{hashlib.sha256(text.encode('utf-8')).hexdigest()[:16]}"
    waiting = False
    while (found := _read(place / _TABLE, len(measure.source))) is None:
        try:
            with atomic_files.resumable(place) as directory:
                _make(measure, identity, directory, workers)
        except atomic_files.BusyError:
            if not waiting:
                progress_line.say(f"{place}: another process is measuring {measure.source.name}; waiting for it")
            waiting = True
            time.sleep(_WAIT_SECONDS)
    return found


def _read(file: Path, rows: int) -> Lengths | None:
    """The table in `file`; None when there is none, or a damaged one."""
    if not file.exists():
        return None
    try:
        stored = json_files.read_arrays(file, ("languages", "texts", *_COLUMNS))
        found = Lengths(tuple(stored["languages"].tolist()), *(stored[name] for name in ("texts", *_COLUMNS)))
        _check(found, rows)
    except (ValueError, TypeError, KeyError) as error:
        progress_line.say(f"{file}: damaged ({error}); making it anew")
        return None
    return found


_COLUMNS = ("tokens", "regions")


def _check(found: Lengths, rows: int) -> None:
    if not all(isinstance(language, str) for language in found.languages):
        raise ValueError("languages are no texts")
    if found.texts.shape != (len(found.languages),) or found.texts.dtype.kind != "i" or (found.texts < 0).any():
        raise ValueError(f"texts is {found.texts.dtype} {found.texts.shape}, not a number for each language")
    shapes = {"tokens": (rows, len(found.languages)), "regions": (rows,)}
    for name, shape in shapes.items():
        array = getattr(found, name)
        if array.shape != shape or array.dtype != np.uint16:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not uint16 {shape}")


class _Unit(NamedTuple):
    """Rows that are measured at once."""

    first: int
    end: int

    @property
    def name(self) -> str:
        return f"rows {self.first:,} to {self.end - 1:,}"


@dataclasses.dataclass(frozen=True)
class _Work:
    """Measures a unit into a file of its own."""

    measure: Measure
    directory: Path

    def __call__(self, number: int, unit: _Unit) -> resumable_jobs.Report:
        _write(_part(self.directory, number), self.measure.of(range(unit.first, unit.end)))
        return {"rows": unit.end - unit.first}


def _make(measure: Measure, identity: dict[str, Any], directory: Path, workers: int) -> None:
    rows = len(measure.source)
    parts = [_Unit(first, min(first + ROWS_PER_UNIT, rows)) for first in range(0, rows, ROWS_PER_UNIT)]
    resumable_jobs.run(_Work(measure, directory), parts, directory, identity, workers, _JOB)
    read = [_read(_part(directory, number), unit.end - unit.first) for number, unit in enumerate(parts)]
    missing = [number for number, part in enumerate(read) if part is None]
    resumable_jobs.clear(directory, _JOB)
    if missing:
        raise LengthsError(f"{directory}: parts {missing} were lost while it was made; repeat the command")
    _write(directory / _TABLE, _joined([part for part in read if part is not None]))
    for number in range(len(parts)):
        _part(directory, number).unlink()


def _part(directory: Path, number: int) -> Path:
    return directory / f"part-{number:06d}.npz"


def _write(file: Path, table: Lengths) -> None:
    partial = file.with_name(f".{file.name}")
    with partial.open("wb") as stream:
        np.savez(stream, **(vars(table) | {"languages": np.array(table.languages, np.str_)}))
    partial.replace(file)


def _joined(parts: list[Lengths]) -> Lengths:
    """The tables one below another."""
    languages = tuple(sorted({language for part in parts for language in part.languages}))
    texts = np.zeros(len(languages), np.int64)
    tokens = np.zeros((sum(len(part.regions) for part in parts), len(languages)), np.uint16)
    first = 0
    for part in parts:
        columns = [languages.index(language) for language in part.languages]
        texts[columns] += part.texts
        tokens[first : first + len(part.regions), columns] = part.tokens
        first += len(part.regions)
    return Lengths(languages, texts, tokens, np.concatenate([part.regions for part in parts]))
