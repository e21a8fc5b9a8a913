"""From records to batches of arrays: makers that build batch n, and the iterator that runs them ahead.

A maker is a picklable function from a batch number to a dict of NumPy arrays and has no state, so batches are
the same for any number of threads, workers and hosts. `Batches` runs a maker ahead of the consumer with
Grain, in threads or in processes. Nothing is saved to resume: start again at the step. The fields of a batch,
all with one row per example:

| field | dtype and shape | |
|---|---|---|
| image | uint8 (B, S, S, 3) | RGB |
| boxes, box_mask | float32 (B, R, 4), bool (B, R) | in units of the picture's sides; only when R > 0 |
| token_ids, token_mask | int32 (B, T), bool (B, T) | |
| id | int32 (B,) | row of the record in its source: equal ids, same picture |
| valid | bool (B,) | evaluation only: False in the rows that fill up the last batch |

This file is the only importer of Grain. Grain itself imports jax where it can, so it is imported late, and `cli` sees
to it that the workers of the command cannot. In workers of another program jax may be imported; no backend starts.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import cv2
import numpy as np

from wenlan_jax.data import images, order, records

if TYPE_CHECKING:
    from wenlan_jax.data.sources import Source
    from wenlan_jax.data.text import Tokenizer

Batch = dict[str, np.ndarray]

REPLACED = "replaced"
"""Which rows of a training batch stand in for a bad record; `Batches` counts and removes it."""

MAX_REPLACEMENTS = 1000
"""Bad records in a row after which a search for the next good one is given up."""


class BadRecord(ValueError):  # noqa: N818
    """A record that cannot become an example: its image is damaged, or none of its texts is wanted."""


class Maker(Protocol):
    """A picklable, stateless function from the number of a batch to this process's part of it."""

    def __call__(self, number: int, /) -> Batch: ...


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which texts of a record are used: those of the listed kinds and languages; an empty list admits all."""

    kinds: tuple[str, ...]
    languages: tuple[str, ...]

    def of(self, record: records.Record) -> list[records.Text]:
        """The wanted texts of `record` that are not blank, in their order."""
        return [text for text in record.texts if self._admits(text)]

    def _admits(self, text: records.Text) -> bool:
        kind = not self.kinds or text.kind in self.kinds
        language = not self.languages or text.language in self.languages
        return kind and language and bool(text.text.strip())

    def missing(self, record: records.Record) -> str:
        """Says why `record` has no wanted text."""
        has = sorted({f"{text.kind}/{text.language}" for text in record.texts}) or ["no text"]
        kinds, languages = list(self.kinds) or "any", list(self.languages) or "any"
        return f"no text of kinds {kinds} in languages {languages}; it has {', '.join(has)}"


@dataclasses.dataclass(frozen=True)
class Pictures:
    """How a picture becomes arrays: side in pixels, antialiasing, and how many boxes are kept (0: none)."""

    size: int
    antialias: bool
    box_limit: int

    def of(self, record: records.Record) -> Batch:
        """The picture fields of one example, without the batch axis. Raises `images.CorruptImage`."""
        pixels = images.decode(record.image)
        example: Batch = {"image": images.resize(pixels, self.size, self.antialias)}
        if self.box_limit:
            height, width = pixels.shape[:2]
            boxes = np.array([region.box for region in record.regions], np.float64).reshape(-1, 4)
            example["boxes"], example["box_mask"] = images.normalise_boxes(boxes, width, height, self.box_limit)
        return example


def _stack(examples: Sequence[Batch]) -> Batch:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """Makes the training batch of a step: the rows at the positions `share` of the global batch of `batch_size` pairs.

    Each record gives one pair; its text is drawn uniformly from the wanted ones, by seed and position. A bad
    record (see `BadRecord`) is reported (`raise`) or gives its place to the next good row (`replace`).
    """

    source: Source
    tokenizer: Tokenizer
    order: order.Order
    batch_size: int
    share: tuple[int, ...]
    pictures: Pictures
    wanted: Wanted
    text_length: int
    bad_records: Literal["raise", "replace"]

    def __post_init__(self) -> None:
        if len(self.source) != self.order.length:
            raise ValueError(f"The order is for {self.order.length} records, the source has {len(self.source)}.")

    def __call__(self, step: int) -> Batch:
        rows, positions = self.order.rows(step, self.batch_size)
        mine = list(self.share)
        pairs = [self._pair(int(row), int(at)) for row, at in zip(rows[mine], positions[mine], strict=True)]
        batch = _stack([example for example, _ in pairs])
        texts = [text for _, text in pairs]
        batch["token_ids"], batch["token_mask"] = self.tokenizer.encode(texts, self.text_length)
        return batch

    def _pair(self, row: int, position: int) -> tuple[Batch, str]:
        """The example and the text of `row`, or of the first good row after it."""
        attempts = min(self.order.length, MAX_REPLACEMENTS) if self.bad_records == "replace" else 1
        for attempt in range(attempts):
            used = (row + attempt) % self.order.length
            try:
                example, text = self._read(used, position)
            except BadRecord as error:
                fault = error
            else:
                example |= {"id": np.asarray(used, np.int32), REPLACED: np.asarray(attempt > 0)}
                return example, text
        if attempts == 1:
            raise fault
        raise BadRecord(f"No usable record among the {attempts} from row {row} on; the last one: {fault}") from fault

    def _read(self, row: int, position: int) -> tuple[Batch, str]:
        record = self.source[row]
        texts = self.wanted.of(record)
        if not texts:
            remedy = "change data.kinds or data.languages, or set data.bad_records to 'replace'"
            raise BadRecord(f"{_name(self.source, row, record)}: {self.wanted.missing(record)}. Remedy: {remedy}.")
        drawn = order.stream(self.order.seed, "text", position).integers(len(texts))
        return _picture(self.pictures, self.source, row, record), texts[drawn].text


def _name(source: Source, row: int, record: records.Record) -> str:
    return f"{source.name} row {row} (id {record.id!r})"


def _picture(pictures: Pictures, source: Source, row: int, record: records.Record) -> Batch:
    try:
        return pictures.of(record)
    except images.CorruptImage as error:
        remedy = "pack the data again with `wenlan pack`, which leaves such records out and lists them"
        raise BadRecord(f"{_name(source, row, record)}: {error}. Remedy: {remedy}.") from error


def _eval_rows(number: int, batch_size: int, total: int, share: Sequence[int]) -> tuple[list[int], int]:
    """The rows at the positions `share` of the global batch `number`, and how many rows fill up that part."""
    rows = [number * batch_size + position for position in share if number * batch_size + position < total]
    return rows, len(share) - len(rows)


def _pad(batch: Batch, rows: int) -> Batch:
    """Adds `rows` zero rows and the mask `valid`; ids of filling rows are -1."""
    count = len(batch["id"])
    padded = {key: np.pad(x, [(0, rows)] + [(0, 0)] * (x.ndim - 1)) for key, x in batch.items()}
    padded["id"][count:] = -1
    padded["valid"] = np.arange(count + rows) < count
    return padded


@dataclasses.dataclass(frozen=True)
class ImageBatches:
    """Makes batch `number` of the pictures of `source` in their order, each once; the last is filled up."""

    source: Source
    batch_size: int
    share: tuple[int, ...]
    pictures: Pictures

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.batch_size)

    def __call__(self, number: int) -> Batch:
        rows, missing = _eval_rows(number, self.batch_size, len(self.source), self.share)
        examples = [_picture(self.pictures, self.source, row, self.source[row]) for row in rows]
        batch = _stack(examples) if examples else self._empty()
        return _pad({**batch, "id": np.array(rows, np.int32)}, missing)

    def _empty(self) -> Batch:
        size, limit = self.pictures.size, self.pictures.box_limit
        batch: Batch = {"image": np.zeros((0, size, size, 3), np.uint8)}
        if limit:
            batch |= {"boxes": np.zeros((0, limit, 4), np.float32), "box_mask": np.zeros((0, limit), bool)}
        return batch


@dataclasses.dataclass(frozen=True)
class RecordText:
    """One text and the row of its record."""

    row: int
    text: records.Text


def list_texts(source: Source, wanted: Wanted) -> list[RecordText]:
    """Every wanted text of every record, by row. Reads the whole source; `BadRecord` when there is none."""
    found = [RecordText(row, text) for row in range(len(source)) for text in wanted.of(source[row])]
    if not found:
        raise BadRecord(f"{source.name}: {wanted.missing(source[0])} (row 0; nor do the other rows).")
    return found


@dataclasses.dataclass(frozen=True)
class TextBatches:
    """Makes batch `number` of a list of texts, each once; `id` is the row of the text's record."""

    texts: Sequence[RecordText]
    tokenizer: Tokenizer
    batch_size: int
    share: tuple[int, ...]
    text_length: int

    def __len__(self) -> int:
        return math.ceil(len(self.texts) / self.batch_size)

    def __call__(self, number: int) -> Batch:
        rows, missing = _eval_rows(number, self.batch_size, len(self.texts), self.share)
        part = [self.texts[row] for row in rows]
        # Filling rows hold the empty text, so that no row is without a valid token.
        ids, mask = self.tokenizer.encode([item.text.text for item in part] + [""] * missing, self.text_length)
        batch = _pad({"id": np.array([item.row for item in part], np.int32)}, missing)
        return {**batch, "token_ids": ids, "token_mask": mask}


class Batches(Iterator[tuple[int, Batch]]):
    """The batches `start, start + 1, ...` of a maker up to `stop`, as pairs of number and batch, made ahead.

    `workers` is the number of data processes; with 0, threads of this process are used. About `prefetch`
    batches are kept ready. Use it as a context manager, or call `close`: this ends the threads and processes.
    `wait_seconds` adds up the time the consumer waited; `replaced` counts the bad records replaced so far.
    """

    def __init__(self, maker: Maker, start: int, stop: int, workers: int, prefetch: int) -> None:
        if workers < 0 or prefetch < 1:
            raise ValueError(f"workers must be >= 0 and prefetch >= 1, got {workers} and {prefetch}.")
        self.wait_seconds = 0.0
        self.replaced = 0
        self._number = start
        self._batches: Any = _run_ahead(maker, start, stop, workers, prefetch) if start < stop else iter(())

    def __next__(self) -> tuple[int, Batch]:
        began = time.perf_counter()
        batch: Batch = dict(next(self._batches))
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _one_thread(worker: int, workers: int) -> None:
    """Keeps OpenCV in each worker process to one core; the processes are the parallelism."""
    del worker, workers
    cv2.setNumThreads(1)


def _run_ahead(maker: Maker, start: int, stop: int, workers: int, prefetch: int) -> Iterator[Batch]:
    """Grain's iterator over the batches, in order."""
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which a program without absl.app never parses
        flags.FLAGS.mark_as_parsed()
    numbers = grain.MapDataset.range(start, stop).map(maker)
    if not workers:
        threads = min(prefetch, os.cpu_count() or 1)
        return iter(numbers.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)))
    ahead = numbers.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    each = math.ceil(prefetch / workers)
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each)
    return iter(ahead.mp_prefetch(processes, worker_init_fn=_one_thread))


def train_batches(maker: TrainBatches, start_step: int, workers: int, prefetch: int) -> Batches:
    """The endless training batches from `start_step` on. Resuming needs nothing else than the step."""
    return Batches(maker, start_step, sys.maxsize, workers, prefetch)


def eval_batches(maker: ImageBatches | TextBatches, workers: int, prefetch: int) -> Batches:
    """All batches of an evaluation, once."""
    return Batches(maker, 0, len(maker), workers, prefetch)
