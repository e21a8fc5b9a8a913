"""The records of one unit of work as files of their own, and all of them together as one TFDS directory.

A unit is written by one process and may be written again after a crash. `assemble` only renames files and writes
TFDS's description of them, so no record is copied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wenlan_jax.data import records
from wenlan_jax.util.errors import WenlanError

RECORDS_PER_FILE = 4096
NAME = "pairs"
"""Of the data set, the first word of its files."""

_PARTS = "parts"
_LAYOUT = "group_size:1,uncompressed"  # records are read one by one, and images do not shrink further


class PartError(WenlanError, ValueError):
    """Parts that do not fit together; the message names the file and the remedy."""


class PartWriter:
    """Appends the records of a unit to files of its own; what an earlier attempt left is removed.

    Records keep the order of the calls, and units that of their numbers.

    Args:
        directory: of the data set.
        number: of the unit.

    Raises:
        OSError: when the disk is full.
    """

    def __init__(self, directory: Path, number: int) -> None:
        from tensorflow_datasets.core import example_serializer

        self._directory, self._number = directory / _PARTS, number
        self._directory.mkdir(parents=True, exist_ok=True)
        for stale in self._directory.glob(f"*-{number:06d}-*"):
            stale.unlink()
        self._features: Any = records.features()
        self._serializer: Any = example_serializer.ExampleSerializer(self._features.get_serialized_info())
        self._files: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    def add(self, split: str, record: records.Record) -> None:
        """Appends `record` to `split`."""
        count = self._counts.get(split, 0)
        example = self._features.encode_example(records.to_example(record))
        with _disk_errors():
            if count % RECORDS_PER_FILE == 0:
                self._start(split, count // RECORDS_PER_FILE)
            # The same bytes of the same record in every process, whose maps are in orders of their own otherwise.
            stored = self._serializer.get_tf_example(example).SerializeToString(deterministic=True)
            self._files[split].write(stored)
        self._counts[split] = count + 1

    def close(self) -> dict[str, int]:
        """Ends the files; without it records are lost.

        Returns:
            The number of records in each split.
        """
        with _disk_errors():
            for file in self._files.values():
                file.close()
        return dict(self._counts)

    def _start(self, split: str, chunk: int) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        if split in self._files:
            self._files[split].close()
        self._files[split] = ArrayRecordWriter(
            str(self._directory / f"{split}-{self._number:06d}-{chunk:06d}"), _LAYOUT
        )


def assemble(directory: Path, reports: Sequence[Mapping[str, int]], description: str) -> dict[str, int]:
    """Makes a TFDS directory of the parts of all units, in their order. It may be repeated after a crash in the middle.

    Args:
        directory: of the data set.
        reports: what `PartWriter.close` returned, by unit.
        description: of the data set.

    Returns:
        The number of records in each split.

    Raises:
        PartError: when the files do not hold what the reports say, and when there is no record at all.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.dataset_info import DatasetIdentity

    splits = list(dict.fromkeys(split for report in reports for split in report))
    totals = {split: sum(report.get(split, 0) for report in reports) for split in splits}
    if not splits:
        raise PartError(f"{directory}: no record to write")
    identity = DatasetIdentity(
        name=NAME, version=tfds.core.Version("1.0.0"), data_dir=str(directory), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity, features=records.features(), description=description, disable_shuffling=True
    )
    info.set_file_format("array_record")
    info.set_splits(tfds.core.splits.SplitDict([_join(directory, split, totals[split]) for split in splits]))
    info.write_to_directory(directory)
    with contextlib.suppress(FileNotFoundError):
        (directory / _PARTS).rmdir()
    return totals


def write(directory: Path, splits: Mapping[str, Iterable[records.Record]], description: str) -> dict[str, int]:
    """Writes records as a TFDS directory in one go.

    Args:
        directory: to make.
        splits: the records of each.
        description: of the data set.

    Returns:
        The number of records in each split.
    """
    output = PartWriter(directory, 0)
    for split, rows in splits.items():
        for record in rows:
            output.add(split, record)
    return assemble(directory, [output.close()], description)


def _join(directory: Path, split: str, expected: int) -> Any:
    """Gives the parts of `split` the names of shards; TFDS's description of the split."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming

    template = naming.ShardedFileTemplate(
        dataset_name=NAME,
        data_dir=directory,
        split=split,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
    )
    joined = sorted(directory.glob(f"{NAME}-{split}.array_record-*"))  # by an attempt that was cut off
    parts = sorted((directory / _PARTS).glob(f"{split}-[0-9]*-[0-9]*"))
    files = [*joined, *parts]
    lengths = [_records_in(file) for file in files]
    if sum(lengths) != expected:
        raise PartError(
            f"{directory}: the parts of split {split!r} hold {sum(lengths)} records, not {expected}; "
            "remove this directory and start again"
        )
    for index, file in enumerate(parts, start=len(joined)):
        file.rename(template.sharded_filepath(shard_index=index, num_shards=None))
    sizes = sum(
        Path(template.sharded_filepath(shard_index=i, num_shards=None)).stat().st_size for i in range(len(files))
    )
    return tfds.core.splits.SplitInfo(name=split, shard_lengths=lengths, num_bytes=sizes, filename_template=template)


def _records_in(path: Path) -> int:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path))
    if not reader.ok():
        raise PartError(f"{path}: truncated or damaged; remove {path.parent.parent} and start again")
    count = int(reader.num_records())
    reader.close()
    return count


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """array_record reports a full disk as RuntimeError; this makes it the OSError that it is."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"array_record: {error}") from error
