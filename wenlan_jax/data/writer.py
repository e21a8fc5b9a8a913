"""Writes records to a TFDS directory of array_record shards, which appears in its place only when complete."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wenlan_jax.data import records

RECORDS_PER_SHARD = 4096
_BATCH = 64  # records per call of the TFDS writer, which rewrites dataset_info.json at each


class BusyError(ValueError):
    """Another process is writing the same directory."""


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


@contextlib.contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """An empty directory beside `place` to fill, which takes `place`'s name when the block ends without an error.

    Until then `place` keeps what it held. A block that fails leaves no trace; what a killed process left behind is
    cleared by the next. Raises BusyError when another process fills the same place.
    """
    place = place.resolve()
    directory = place.with_name(f".{place.name}.incomplete")
    directory.mkdir(parents=True, exist_ok=True)
    lock = _lock(directory, place)
    try:
        _clear(directory)
        yield directory
        _move(directory, place)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _lock(directory: Path, place: Path) -> int:
    """A handle that holds the lock on `directory`, which the system drops when the process ends."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise BusyError(f"{place}: another process is writing it; wait for it or choose another place") from error
    return handle


def _clear(directory: Path) -> None:
    for leftover in directory.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _move(directory: Path, place: Path) -> None:
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    directory.rename(place)
    shutil.rmtree(old, ignore_errors=True)
