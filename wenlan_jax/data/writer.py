"""Writes records to a TFDS directory of array_record shards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wenlan_jax.data import records

RECORDS_PER_SHARD = 4096
_BATCH = 64  # records per call of the TFDS writer, which rewrites dataset_info.json at each


class RecordWriter:
    """Appends records to the splits of one TFDS directory; rows keep the order of the calls."""

    def __init__(self, directory: Path, description: str) -> None:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.dataset_info import DatasetIdentity

        identity = DatasetIdentity(
            name="pairs", version=tfds.core.Version("1.0.0"), data_dir=str(directory), module_name=__name__
        )
        info = tfds.core.DatasetInfo(
            builder=identity, features=records.features(), description=description, disable_shuffling=True
        )
        self._writer: Any = tfds.core.SequentialWriter(info, RECORDS_PER_SHARD, file_format="array_record")
        self._pending: dict[str, list[dict[str, Any]]] = {}

    def add(self, split: str, record: records.Record) -> None:
        """Appends `record` to `split`. Raises OSError when the disk is full."""
        if split not in self._pending:
            self._pending[split] = []
            self._writer.initialize_splits([split])
        self._pending[split].append(records.to_example(record))
        if len(self._pending[split]) == _BATCH:
            self._flush(split)

    def close(self) -> None:
        """Writes what is pending; without it records are lost. Raises OSError when the disk is full."""
        for split in self._pending:
            self._flush(split)
        with _disk_errors():
            self._writer.close_all()

    def _flush(self, split: str) -> None:
        with _disk_errors():
            self._writer.add_examples({split: self._pending[split]})
        self._pending[split] = []


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """array_record reports a full disk as RuntimeError; this makes it the OSError that it is."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"array_record: {error}") from error
