"""From records to batches of arrays: makers that build batch n, and the iterator that runs them ahead.

A maker is a picklable function from a batch number to a dict of NumPy arrays and has no state, so batches are
the same for any number of threads, workers and hosts. `Batches` runs a maker ahead of the consumer with
Grain, in threads or in processes. Nothing is saved to resume: start again at the step. The fields of a batch,
all with one row per example:

| field | dtype and shape | |
|---|---|---|
| image | uint8 (B, S, S, 3) | RGB |
| image_sides | int32 (B, 2) | height and width of the image in the upper left of `image`, where it grows later |
| boxes, box_mask | float32 (B, R, 4), bool (B, R) | in units of the image's sides; only when R > 0 |
| token_ids, token_mask | int32 (B, T), bool (B, T) | |
| id | int32 (B,) | number of the image: equal ids, same image; the row of the record where there is one source |
| valid | bool (B,) | evaluation only: False in the rows that fill up the last batch |

This file is the only importer of Grain. Grain itself imports jax where it can, so it is imported late, and `cli` sees
to it that the workers of the command cannot. In workers of another program jax may be imported; no backend starts.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from wenlan_jax.data import images, records
from wenlan_jax.data.mixture import Mixture, WantedRow, WantedTexts
from wenlan_jax.util import host_memory
from wenlan_jax.util.errors import WenlanError

if TYPE_CHECKING:
    from wenlan_jax.data.sources import Source
    from wenlan_jax.data.text import Tokenizer

HostBatch = dict[str, np.ndarray]
T = TypeVar("T")

REPLACED = "replaced"
"""Which rows of a training batch stand in for a bad record; `Batches` counts and removes it."""

MAX_REPLACEMENTS = 1000
"""Bad records in a row after which a search for the next good one is given up."""


class BadRecord(WenlanError, ValueError):  # noqa: N818
    """A record that cannot become an example: its image is damaged, or none of its texts is wanted."""


SHARED_MEMORY = Path("/dev/shm")
"""Through which data processes hand over their batches."""

PLENTY = 2**33
"""Bytes of shared memory that are enough without a look at the batch."""


class SharedMemoryError(WenlanError, ValueError):
    """Batches of the configured data processes do not fit into shared memory."""


@runtime_checkable
class Maker(Protocol):
    """A picklable, stateless function from the number of a batch to this process's part of it."""

    def __call__(self, number: int, /) -> HostBatch: ...


class FiniteMaker(Maker, Protocol):
    """A maker of so many batches, each example once; `valid` is False in the rows that fill up the last."""

    def __len__(self) -> int: ...


@runtime_checkable
class PairCounter(Protocol):
    """What a training run says of the data that its maker draws from; see `mixture.Mixture`."""

    @property
    def name(self) -> str:
        """The name of the data."""
        ...

    def __len__(self) -> int: ...

    def progress(self, pairs: int) -> dict[str, float]:
        """Says how far the first `pairs` pairs go, by the names that a log has for it."""
        ...


class TrainMaker(Maker, Protocol):
    """The maker of training batches of a task."""

    @property
    def mixture(self) -> PairCounter:
        """The data that batches are drawn from."""
        ...


@dataclasses.dataclass(frozen=True)
class ImageReader:
    """How images become arrays.

    Attributes:
        size: side of the square, in pixels.
        antialias: see `images.resize`.
        averaging: how area means are computed, see `exact` of `images.read_square`.
        box_limit: boxes kept of each image; 0 for none.
        enlarge: whether smaller images grow to `size` here; otherwise `augment.enlarged` has them grow.
    """

    size: int
    antialias: bool
    averaging: Literal["fast", "exact"]
    box_limit: int
    enlarge: bool

    def empty(self, rows: int) -> HostBatch:
        """Makes the image fields of a batch, to be written into; images may hold what was in memory.

        Args:
            rows: the number of examples.

        Returns:
            `image`, and `image_sides`, `boxes` and `box_mask` where they are needed.
        """
        batch: HostBatch = {"image": np.empty((rows, self.size, self.size, 3), np.uint8)}
        if not self.enlarge:
            batch["image_sides"] = np.full((rows, 2), self.size, np.int32)
        if self.box_limit:
            batch["boxes"] = np.zeros((rows, self.box_limit, 4), np.float32)
            batch["box_mask"] = np.zeros((rows, self.box_limit), bool)
        return batch

    def write(self, record: records.Record, batch: HostBatch, row: int) -> None:
        """Writes the image of a record and its boxes into a batch.

        Args:
            record: the record.
            batch: made by `empty`; changed in place.
            row: the row to write.

        Raises:
            CorruptImage: if the image cannot be decoded.
        """
        boxes = [region.box for region in record.regions] if self.box_limit else ()
        self.write_image(record.image, np.array(boxes, np.float64).reshape(-1, 4), batch, row)

    def write_image(
        self,
        image: bytes | UInt8[np.ndarray, "height width 3"],
        boxes: Float64[np.ndarray, "boxes 4"],
        batch: HostBatch,
        row: int,
    ) -> None:
        """Writes an image into a batch.

        Args:
            image: encoded bytes, or pixels.
            boxes: (x1, y1, x2, y2) in pixels of the image; written where they are kept.
            batch: made by `empty`; changed in place.
            row: the row to write.

        Raises:
            CorruptImage: if the image cannot be decoded.
        """
        exact = self.averaging == "exact"
        write = images.read_square if isinstance(image, bytes) else images.write_square
        height, width = write(image, self.antialias, exact, batch["image"][row], self.enlarge)  # type: ignore[arg-type]
        if not self.enlarge:
            batch["image_sides"][row] = min(height, self.size), min(width, self.size)
        if self.box_limit:
            batch["boxes"][row], batch["box_mask"][row] = images.normalise_boxes(boxes, width, height, self.box_limit)


def first_good(read: Callable[[int], T], candidates: int, first: str) -> tuple[T, bool]:
    """Reads the first of some candidates that is no bad record.

    Args:
        read: reads the candidate of a number.
        candidates: how many there are. With 1, its BadRecord is raised as it is; after `MAX_REPLACEMENTS` the search is
            given up.
        first: names the first candidate in the message.

    Returns:
        What `read` gave, and whether it replaces another.

    Raises:
        BadRecord: if none is good.
    """
    attempts = min(candidates, MAX_REPLACEMENTS)
    for attempt in range(attempts):
        try:
            return read(attempt), attempt > 0
        except BadRecord as error:
            fault = error
    if attempts == 1:
        raise fault
    raise BadRecord(f"No usable record among the {attempts} from {first} on; the last one: {fault}") from fault


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """Makes the training batches of two towers.

    Attributes:
        mixture: says which rows make up a batch, and which text of each.
        tokenizer: for the texts.
        batch_size: of the global batch.
        share: the places of each global batch that this process makes.
        reader: how images become arrays.
        text_length: tokens of a text, padding included.
        bad_records: `raise` reports a bad record, `replace` gives its place to the next good row of its source.
    """

    mixture: Mixture
    tokenizer: Tokenizer
    batch_size: int
    share: tuple[int, ...]
    reader: ImageReader
    text_length: int
    bad_records: Literal["raise", "replace"]

    def __call__(self, step: int) -> HostBatch:
        drawn = self.mixture.draw(step, self.batch_size, self.share)
        batch = self.reader.empty(len(drawn))
        batch |= {"id": np.zeros(len(drawn), np.int32), REPLACED: np.zeros(len(drawn), bool)}
        texts = [self._write(row, batch, place) for place, row in enumerate(drawn)]
        batch["token_ids"], batch["token_mask"] = self.tokenizer.encode(texts, self.text_length)
        return batch

    def _write(self, wanted: WantedRow, batch: HostBatch, place: int) -> str:
        """Puts the pair of `wanted`, or of the first good row after it, at `place` of the batch; returns its text."""
        length = len(self.mixture.parts[wanted.part].source)

        def read(attempt: int) -> str:
            used = wanted._replace(row=(wanted.row + attempt) % length)
            text = self._read(used, batch, place)
            batch["id"][place] = self.mixture.id(used.part, used.row)
            return text

        candidates = length if self.bad_records == "replace" else 1
        text, batch[REPLACED][place] = first_good(read, candidates, f"row {wanted.row}")
        return text

    def _read(self, wanted: WantedRow, batch: HostBatch, place: int) -> str:
        part = self.mixture.parts[wanted.part]
        record = part.source[wanted.row]
        text = part.texts.draw(record, self.mixture.seed, wanted.position)
        if text is None:
            missing = part.texts.wanted.missing(record)
            remedy = "change data.kinds or data.languages (those of its part in a mixture), or set data.bad_records "
            raise BadRecord(f"{row_name(part.source, wanted.row, record)}: {missing}. Remedy: {remedy}to 'replace'.")
        write_record_image(self.reader, part.source, wanted.row, record, batch, place)
        return text.text


def row_name(source: Source, row: int, record: records.Record) -> str:
    """Names a record in messages."""
    return f"{source.name} row {row} (id {record.id!r})"


def write_record_image(
    reader: ImageReader, source: Source, row: int, record: records.Record, batch: HostBatch, place: int
) -> None:
    """Writes the image of a record into a batch.

    Args:
        reader: how images become arrays.
        source: the source of the record.
        row: of the record in the source.
        record: the record.
        batch: changed in place.
        place: the row of the batch to write.

    Raises:
        BadRecord: if the image is damaged.
    """
    try:
        reader.write(record, batch, place)
    except images.CorruptImage as error:
        remedy = "pack the data again with `wenlan pack`, which leaves such records out and lists them"
        raise BadRecord(f"{row_name(source, row, record)}: {error}. Remedy: {remedy}.") from error


def eval_rows(number: int, batch_size: int, total: int, share: Sequence[int]) -> tuple[list[int], int]:
    """Says which rows this process reads for a batch of an evaluation.

    Args:
        number: of the global batch.
        batch_size: of the global batch.
        total: the number of examples.
        share: the positions of this process in a batch.

    Returns:
        The rows, and how many rows fill up the part.
    """
    rows = [number * batch_size + position for position in share if number * batch_size + position < total]
    return rows, len(share) - len(rows)


def numbered(rows: Sequence[int], missing: int) -> HostBatch:
    """Makes the fields `id` and `valid` of a batch of an evaluation.

    Args:
        rows: the ids of the examples.
        missing: how many rows fill up the batch; their id is -1.

    Returns:
        The two fields.
    """
    ids = np.array([*rows, *[-1] * missing], np.int32)
    return {"id": ids, "valid": ids >= 0}


@dataclasses.dataclass(frozen=True)
class ImageBatches:
    """Makes the batches of all images of a source in their order, each once; the last is filled up with zeros.

    Attributes:
        source: the records.
        batch_size: of the global batch.
        share: the places of each global batch that this process makes.
        reader: how images become arrays.
    """

    source: Source
    batch_size: int
    share: tuple[int, ...]
    reader: ImageReader

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.batch_size)

    def __call__(self, number: int) -> HostBatch:
        rows, missing = eval_rows(number, self.batch_size, len(self.source), self.share)
        batch = self.reader.empty(len(rows) + missing)
        for place, row in enumerate(rows):
            write_record_image(self.reader, self.source, row, self.source[row], batch, place)
        batch["image"][len(rows) :] = 0
        return batch | numbered(rows, missing)


@dataclasses.dataclass(frozen=True)
class RecordText:
    """A text of a split.

    Attributes:
        row: of its record.
        text: the text.
        others: rows of further records that have the same text.
    """

    row: int
    text: records.Text
    others: tuple[int, ...] = ()

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of all records that have the text."""
        return (self.row, *self.others)


def list_texts(source: Source, wanted: WantedTexts) -> list[RecordText]:
    """Lists every wanted text of every record, by row. Reads the whole source.

    Args:
        source: the records.
        wanted: which texts.

    Returns:
        The texts, equal ones as often as they come.

    Raises:
        BadRecord: if there is none.
    """
    found = [RecordText(row, text) for row in range(len(source)) for text in wanted.of(source[row])]
    if not found:
        raise BadRecord(f"{source.name}: {wanted.missing(source[0])} (row 0; nor do the other rows).")
    return found


@dataclasses.dataclass(frozen=True)
class TextBatches:
    """Makes the batches of a list of texts, each once; `id` is the row of the text's record.

    Attributes:
        texts: the texts.
        tokenizer: makes ids of them.
        batch_size: of the global batch.
        share: the places of each global batch that this process makes.
        text_length: tokens of a text, padding included.
    """

    texts: Sequence[RecordText]
    tokenizer: Tokenizer
    batch_size: int
    share: tuple[int, ...]
    text_length: int

    def __len__(self) -> int:
        return math.ceil(len(self.texts) / self.batch_size)

    def __call__(self, number: int) -> HostBatch:
        rows, missing = eval_rows(number, self.batch_size, len(self.texts), self.share)
        part = [self.texts[row] for row in rows]
        # Filling rows hold the empty text, so that no row is without a valid token.
        ids, mask = self.tokenizer.encode([item.text.text for item in part] + [""] * missing, self.text_length)
        return numbered([item.row for item in part], missing) | {"token_ids": ids, "token_mask": mask}


class Batches(Iterator[tuple[int, HostBatch]]):
    """Iterates over the batches `start, start + 1, ...` of a maker, as pairs of number and batch, made ahead.

    Use it as a context manager, or call `close`: this ends the threads and processes.

    Args:
        maker: makes the batch of a number.
        start: the first number.
        stop: the number after the last.
        workers: data processes; with 0, threads of this process are used.
        prefetch: batches that are kept ready, about.

    Attributes:
        wait_seconds: how long the consumer has waited so far.
        replaced: how many bad records were replaced so far.

    Raises:
        ValueError: for a negative `workers` or a `prefetch` below 1.
        SharedMemoryError: if batches of data processes do not fit into shared memory.

    Example:
        >>> with Batches(maker, start=0, stop=len(maker), workers=2, prefetch=2) as batches:
        ...     for number, batch in batches: ...
    """

    def __init__(self, maker: Maker, start: int, stop: int, workers: int, prefetch: int) -> None:
        if workers < 0 or prefetch < 1:
            raise ValueError(f"workers must be >= 0 and prefetch >= 1, got {workers} and {prefetch}.")
        self.wait_seconds = 0.0
        self.replaced = 0
        self._number = start
        self._batches: Any = _run_ahead(maker, start, stop, workers, prefetch) if start < stop else iter(())

    def __next__(self) -> tuple[int, HostBatch]:
        began = time.perf_counter()
        batch: HostBatch = dict(next(self._batches))
        self.wait_seconds += time.perf_counter() - began
        if REPLACED in batch:
            self.replaced += int(batch.pop(REPLACED).sum())
        number, self._number = self._number, self._number + 1
        return number, batch

    def close(self) -> None:
        """Ends the threads or processes; the iterator is empty from then on."""
        if hasattr(self._batches, "close"):
            self._batches.close()
        self._batches = iter(())

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _prepare_process() -> None:
    """Keeps OpenCV to one core, as batches are made side by side, and the memory of an image for the next one: mapped
    afresh, the kernel clears it page by page."""
    cv2.setNumThreads(1)
    host_memory.keep_freed_memory()


def _start_worker(worker: int, workers: int) -> None:
    del worker, workers
    # Not by a signal of the system: Grain starts processes in threads, which may end before them.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    _prepare_process()


def _end_with_parent() -> None:
    """Ends this worker when its parent is gone, even if it was killed; otherwise it would wait for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _run_ahead(maker: Maker, start: int, stop: int, workers: int, prefetch: int) -> Iterator[HostBatch]:
    """Grain's iterator over the batches, in order."""
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which a program without absl.app never parses
        flags.FLAGS.mark_as_parsed()
    numbers = grain.MapDataset.range(start, stop).map(maker)
    if not workers:
        _prepare_process()
        threads = min(prefetch, os.cpu_count() or 1)
        return iter(numbers.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)))
    ahead = numbers.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    each = math.ceil(prefetch / workers)
    _check_shared_memory(maker, start, workers, each)
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each)
    return iter(ahead.mp_prefetch(processes, worker_init_fn=_start_worker))


def _check_shared_memory(maker: Maker, number: int, workers: int, each: int) -> None:
    """Raises SharedMemoryError where batches that travel from data processes do not fit.

    A process that writes to shared memory beyond its size is killed without a word (SIGBUS). `each` batches of a
    process wait, and one more is being made by it and one read here.
    """
    if not SHARED_MEMORY.is_dir():
        return
    state = os.statvfs(SHARED_MEMORY)
    free = state.f_bavail * state.f_frsize
    if free >= PLENTY:
        return
    needed = sum(array.nbytes for array in maker(number).values()) * workers * (each + 2)
    if needed > free:
        mib = 2**20
        least = -(-needed // mib)
        raise SharedMemoryError(
            f"data.workers: {workers} processes need {least} MiB of shared memory for batches, and {SHARED_MEMORY} has "
            f"{free // mib} MiB free. Enlarge it (docker run --shm-size={2 * least}m, in Kubernetes an emptyDir of "
            "medium Memory), or set --config.data.workers=0, which makes batches in threads"
        )


def train_batches(maker: TrainMaker, start_step: int, workers: int, prefetch: int) -> Batches:
    """Starts the endless training batches. Resuming needs nothing else than the step.

    Args:
        maker: makes the batch of a step.
        start_step: the first step.
        workers: see `Batches`.
        prefetch: see `Batches`.

    Returns:
        The iterator.
    """
    return Batches(maker, start_step, sys.maxsize, workers, prefetch)


def eval_batches(maker: FiniteMaker, workers: int, prefetch: int) -> Batches:
    """Starts all batches of an evaluation, once.

    Args:
        maker: makes the batch of a number.
        workers: see `Batches`.
        prefetch: see `Batches`.

    Returns:
        The iterator.
    """
    return Batches(maker, 0, len(maker), workers, prefetch)
