"""Where records come from: random-access sources over TFDS array_record directories, and how one is named.

A source is a sequence of `Record`s. It opens its files lazily, once in each process, so it can be sent to data workers.
This file is the one reader of TFDS directories.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from wenlan_jax.data import named_sets, records
from wenlan_jax.util import atomic_files
from wenlan_jax.util.errors import WenlanError


class SourceError(WenlanError, ValueError):
    """Data that is missing, damaged or of another schema; the message names the file and the remedy."""


@runtime_checkable
class Source(Protocol):
    """Records by row number. Rows are numbered from 0, in an order that never changes."""

    @property
    def name(self) -> str:
        """The name of the source, for messages."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> records.Record: ...


class TfdsSource:
    """One split of a prepared TFDS directory that holds our record schema. Rows keep the order of the files.

    Args:
        directory: the packed directory.
        split: the name of a split, or a TFDS slice, e.g. `train[:10%]` or `train+validation`.
        name: of the data set, for messages.

    Attributes:
        name: `name` and the split.

    Raises:
        SourceError: when the directory, the split or a shard is missing, and when a shard is truncated.
    """

    def __init__(self, directory: Path, split: str, name: str) -> None:
        builder = open_builder(directory)
        self._directory, self._split = directory, split
        self.name = f"{name}/{split}"
        try:
            info = builder.info.splits[split]
        except (ValueError, KeyError) as error:
            raise SourceError(f"{directory}: no split {split!r}; it has {_split_names(builder)}") from error
        if not info.num_examples:
            raise SourceError(f"{directory}: split {split!r} is empty; it has {_split_names(builder)}")
        self._length = int(info.num_examples)
        for piece in info.file_instructions:
            _check_shard(Path(piece.filename), piece.examples_in_shard)
        self._pieces = [
            (_Shard(str(piece.filename), tuple(atomic_files.stamp(piece.filename))), int(piece.skip))
            for piece in info.file_instructions
        ]
        self._ends = list(itertools.accumulate(_rows_of(piece) for piece in info.file_instructions))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int | np.integer) -> records.Record:
        if not 0 <= row < self._length:
            raise IndexError(f"row {row} of {self.name}, which has {self._length} records")
        piece = bisect.bisect_right(self._ends, row)
        shard, skip = self._pieces[piece]
        before = self._ends[piece - 1] if piece else 0
        try:
            return records.from_example(_parse(_reader(shard).read([int(row) - before + skip])[0]))
        except _DAMAGE as error:
            _check_opens(shard.filename)
            raise SourceError(
                f"{self._directory}: row {row} of split {self._split!r} cannot be read ({error}); "
                f"the shard {Path(shard.filename).name} is damaged: copy or pack the data again"
            ) from error


class CachedSource:
    """A source whose records stay in memory once they were read, as they are in its files.

    For data that fit: a record is then read and parsed once in each process instead of in every epoch.

    Args:
        source: the source.
        most: how many records are kept.
    """

    def __init__(self, source: Source, most: int) -> None:
        self._source, self._most = source, most
        self._kept: dict[int, records.Record] = {}

    @property
    def name(self) -> str:
        """The name of the source."""
        return self._source.name

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> records.Record:
        record = self._kept.get(row)
        if record is None:
            record = self._source[row]
            if len(self._kept) < self._most:  # threads that race here keep the same record twice, under one key
                self._kept[row] = record
        return record

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}


def _rows_of(piece: Any) -> int:
    """Records of a TFDS file instruction, which says -1 for all after those it skips."""
    return int(piece.take if piece.take >= 0 else piece.examples_in_shard - piece.skip)


_DAMAGE = (RuntimeError, ValueError, KeyError, IndexError)
"""What array_record and the parsing of what it gives raise where bytes are wrong."""


class _Shard(NamedTuple):
    """A file of records as it was when its source was opened; `stamp` is its size and time of change."""

    filename: str
    stamp: tuple[int, ...]


MOST_OPEN = 200
"""Shards that a process holds open, over all its sources; a usual limit of the system is 1,024 files."""


@functools.lru_cache(maxsize=MOST_OPEN)
def _reader(shard: _Shard) -> Any:
    """A reader for single records at random, which does not read ahead. Those used last stay open.

    A reader that leaves here closes its file when the last thread that reads by it is done.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(shard.filename, options="readahead_buffer_size:0")


def _check_opens(filename: str | Path) -> None:
    """Raises the system's error, such as too many open files or a lack of rights, if that is what is wrong."""
    with open(filename, "rb"):
        pass


def _parse(serialised: bytes) -> dict[str, Any]:
    """The stored view of a record, from the `tf.train.Example` that TFDS writes, as `records.from_example` takes it."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        stored = tf_example_pb2.Example.FromString(serialised).features.feature
    except DecodeError as error:
        raise ValueError(f"not an example: {error}") from error
    example: dict[str, Any] = {}
    for name, feature in stored.items():
        values = getattr(feature, feature.WhichOneof("kind")).value
        column, dot, field = name.partition("/")
        if dot:
            example.setdefault(column, {})[field] = values
        else:
            example[column] = values[0]
    corners = example["regions"]["box"]
    example["regions"]["box"] = [corners[start : start + 4] for start in range(0, len(corners), 4)]
    return example


def open_source(spec: str, split: str, data_dir: Path) -> Source:
    """Opens a source.

    Args:
        spec: the embedded data set with its size, such as `wenlan_scenes/s64` (drawn into `data_dir` when absent), a
            named one such as `wenlan_emoji/noto` (as `wenlan data build` makes it), or a directory in our schema, such
            as `wenlan pack` writes: its path, or its path below `data_dir`.
        split: the name of a split, or a TFDS slice.
        data_dir: where data sets lie.

    Returns:
        The source.

    Raises:
        SourceError: if there is no such data set or split, or it is damaged.
    """
    if not spec:
        raise SourceError(
            "data.source: names no data set; give --config.data.source=DIR or a name of `wenlan data list`"
        )
    name = spec if named_sets.is_named(spec) else Path(spec).name
    return TfdsSource(_prepared_directory(spec, Path(data_dir)), split, name)


def _prepared_directory(spec: str, data_dir: Path) -> Path:
    tried = [Path(spec), data_dir / spec]
    if named_sets.is_named(spec) and (named_sets.is_drawn(spec) or not Path(spec).exists()):
        return named_sets.build(spec, data_dir)
    for place in tried:
        versions = sorted(file.parent for file in place.glob("*/dataset_info.json"))
        if (place / "dataset_info.json").is_file():
            return place
        if len(versions) == 1:
            return versions[0]
        if versions:
            raise SourceError(f"{place}: holds {', '.join(v.name for v in versions)}; name one of them")
    looked = " and ".join(str(place) for place in dict.fromkeys(tried))
    raise SourceError(
        f"data set {spec!r} not found: no dataset_info.json in {looked}; "
        f"make one from your pairs with `wenlan pack`, or use {named_sets.SCENES}/s64"
    )


def split_sizes(spec: str, data_dir: Path) -> dict[str, int]:
    """Counts the records of each split of a source.

    Args:
        spec: see `open_source`.
        data_dir: where data sets lie.

    Returns:
        The numbers of records by split.

    Raises:
        SourceError: if there is no such data set.
    """
    builder = open_builder(_prepared_directory(spec, Path(data_dir)))
    return {name: int(info.num_examples) for name, info in builder.info.splits.items()}


def identity(spec: str, data_dir: Path) -> list[list[object]]:
    """Lists the files of records that a source has at present, by which another state of it is told.

    Args:
        spec: see `open_source`.
        data_dir: where data sets lie.

    Returns:
        Name, size and time of change of each.
    """
    return [[file.name, *atomic_files.stamp(file)] for file in _files(spec, data_dir)]


def contents(spec: str, data_dir: Path) -> list[list[object]]:
    """Lists the files of records of a source in a way that is the same for any copy of them.

    Args:
        spec: see `open_source`.
        data_dir: where data sets lie.

    Returns:
        Name, size and a digest of the beginning and the end of each.
    """
    return [[file.name, file.stat().st_size, _digest(file)] for file in _files(spec, data_dir)]


ENDS = 2**16
"""Bytes of a file's beginning and of its end that a digest reads; the end of a shard lists its records."""


def _digest(file: Path) -> int:
    with file.open("rb") as handle:
        found = zlib.crc32(handle.read(ENDS))
        handle.seek(max(0, file.stat().st_size - ENDS))
        return zlib.crc32(handle.read(ENDS), found)


DESCRIPTION = ("dataset_info.json", "features.json")
"""Files that say what the files of records hold."""
_OF_RECORDS = re.compile(r"\.array_record(-\d+(-of-\d+)?)?$")


def of_records(note: Any) -> Any:
    """Leaves the rows of other files out of a note, which older notes have, too.

    Args:
        note: what `identity` or `contents` gave, read from JSON.

    Returns:
        The rows of files of records; a note of another form as it is.
    """
    if not isinstance(note, list) or not all(isinstance(row, list) and row for row in note):
        return note
    return [row for row in note if row[0] in DESCRIPTION or _OF_RECORDS.search(str(row[0]))]


def _files(spec: str, data_dir: Path) -> list[Path]:
    """The files of records and their description; others may come and go beside them."""
    directory = _prepared_directory(spec, Path(data_dir))
    splits = open_builder(directory).info.splits.values()
    names = {*DESCRIPTION, *(name for split in splits for name in split.filenames)}
    return sorted(file for name in names if (file := directory / name).is_file())


def open_builder(directory: Path) -> Any:
    """Opens the read-only TFDS builder of a packed directory, whose fields must be ours.

    Args:
        directory: the packed directory.

    Returns:
        The builder.

    Raises:
        SourceError: if there is no data set, or one that is damaged or of another schema.
    """
    import tensorflow_datasets as tfds

    if not os.path.isfile(Path(directory) / "dataset_info.json"):
        raise SourceError(f"{directory}: {_what_is_there(Path(directory))}")
    try:
        builder = tfds.builder_from_directory(str(directory))
        stored = set(builder.info.features or ())
    except OSError as error:  # of rights, or of the disk
        raise SourceError(
            f"{directory}: cannot be read ({error.strerror or error}); see to that and try again"
        ) from error
    except Exception as error:  # TFDS raises many kinds for a damaged dataset_info.json or features.json
        raise SourceError(f"{directory}: cannot be opened ({error}); remove it, then build or pack it again") from error
    missing = set(records.features()) - set(records.ARRAYS) - stored
    if missing:
        raise SourceError(
            f"{directory}: not in the record schema, it lacks {', '.join(sorted(missing))}; "
            "convert it with `wenlan pack`"
        )
    return builder


def _what_is_there(directory: Path) -> str:
    """Why a directory is no data set."""
    if not os.path.lexists(directory):
        return "no such directory; name one that `wenlan pack` made"
    if not os.path.isdir(directory):
        return "not a directory; name one that `wenlan pack` made"
    if not os.access(directory, os.R_OK | os.X_OK):
        return "cannot be read; see to its rights"
    if below := sorted(str(file.parent) for file in directory.glob("*/dataset_info.json")):
        return f"no data set itself; name {' or '.join(below[:3])}"
    return "no data set, it has no dataset_info.json; name a directory that `wenlan pack` made"


def _split_names(builder: Any) -> str:
    sizes = [f"{name} ({info.num_examples})" for name, info in builder.info.splits.items()]
    return ", ".join(sizes) or "no splits"


def _check_shard(path: Path, expected: int) -> None:
    """Raises SourceError unless the shard is there, complete, and holds `expected` records."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not path.is_file():
        raise SourceError(f"{path}: this shard is missing; copy or pack the data again")
    _check_opens(path)
    reader = ArrayRecordReader(str(path))
    if not reader.ok():  # the footer is read on opening, and a file cut short has lost it
        size = path.stat().st_size
        raise SourceError(f"{path}: this shard is truncated or damaged ({size} bytes); copy or pack the data again")
    found = reader.num_records()
    reader.close()
    if found != expected:
        raise SourceError(f"{path}: this shard holds {found} records, not {expected}; copy or pack the data again")
