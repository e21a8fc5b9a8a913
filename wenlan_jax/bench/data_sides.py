"""The loaders that `wenlan bench --data` compares, each in a process of its own with its workers as children.

Imports no jax. `LoaderSide` starts one and asks it for batches; `cpu_seconds` is what a process and its children have
used.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import cv2
import numpy as np

from wenlan_jax.data import loader, sources, text
from wenlan_jax.data.mixture import Mixture, MixturePart, TextChoice, WantedTexts
from wenlan_jax.util import host_memory
from wenlan_jax.util.errors import WenlanError

Kind = Literal[
    "ours",
    "ours, not enlarged",
    "decoding alone",
    "decoding alone, memory kept",
    "DataLoader, same work",
    "DataLoader, usual transforms",
]

SETTLED = 0.2
"""Seconds in which a loader that has filled up its queue uses less than a tenth of a core."""


class SideError(WenlanError, RuntimeError):
    """A loader that failed, or a system on which CPU seconds cannot be read."""


@dataclasses.dataclass(frozen=True)
class LoaderJob:
    """What a side loads.

    Attributes:
        kind: which loader.
        folder: as `data_images.write` leaves it.
        vocabulary: a vocab.txt.
        size: side of the images of a batch, in pixels.
        batch_size: records of a batch.
        workers: data processes.
        prefetch: batches that are kept ready.
        text_length: tokens of a text.
        antialias: see `images.resize`.
        averaging: see `loader.ImageReader`.
        seed: of the order.
    """

    kind: Kind
    folder: Path
    vocabulary: Path
    size: int
    batch_size: int
    workers: int
    prefetch: int
    text_length: int
    antialias: bool
    averaging: Literal["fast", "exact"]
    seed: int


def _ours(job: LoaderJob) -> Iterator[Any]:
    """The training loader of this package."""
    source = sources.open_source(str(job.folder / "records"), "train", job.folder)
    maker = loader.TrainBatches(
        mixture=Mixture([MixturePart(source, TextChoice(WantedTexts((), ()), "any", (), 1.0), 0.0)], job.seed),
        tokenizer=text.load_tokenizer(job.vocabulary),
        batch_size=job.batch_size,
        share=tuple(range(job.batch_size)),
        reader=loader.ImageReader(job.size, job.antialias, job.averaging, 0, job.kind == "ours"),
        text_length=job.text_length,
        bad_records="raise",
    )
    return loader.train_batches(maker, 0, job.workers, job.prefetch)


def _decoding(job: LoaderJob) -> Iterator[Any]:
    """libjpeg-turbo alone: the files decoded whole, from memory, nothing else done.

    An image's memory is mapped afresh by malloc and cleared by the kernel, unless it is kept as our loader does.
    """
    cv2.setNumThreads(1)
    if job.kind.endswith("kept"):
        host_memory.keep_freed_memory()
    files = [np.fromfile(path, np.uint8) for path in sorted((job.folder / "files").glob("*.jpg"))]
    endless = itertools.cycle(files)
    while True:
        for data in itertools.islice(endless, job.batch_size):
            cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        yield None


def _torch(job: LoaderJob) -> Iterator[Any]:
    from wenlan_jax.bench import torch_loader

    dataset = torch_loader.Files(job.folder / "files", job.size, augment=job.kind.endswith("transforms"))
    words = text.load_tokenizer(job.vocabulary)
    return torch_loader.batches(dataset, words, job.text_length, job.batch_size, max(job.workers, 1), job.prefetch)


def _batches(job: LoaderJob) -> Iterator[Any]:
    if job.kind.startswith("ours"):
        return _ours(job)
    return _decoding(job) if job.kind.startswith("decoding") else _torch(job)


def serve(connection: Connection, job: LoaderJob) -> None:
    """Takes as many batches as it is asked for, until the other side closes; the loop of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    try:
        # Grain looks for jax's profiler, which is kept out here, and warns.
        logging.getLogger("absl").setLevel(logging.ERROR)
        batches = _batches(job)
        while True:
            for _ in range(connection.recv()):
                next(batches)
            connection.send(None)
    except EOFError:
        return
    except Exception as error:
        connection.send(SideError(f"{job.kind}: {type(error).__name__}: {error}"))


class LoaderSide:
    """A loader in a process. A context manager: leaving it ends the process and its workers.

    Args:
        job: what it loads.
    """

    def __init__(self, job: LoaderJob) -> None:
        self.job = job
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, job))
        self.process.start()
        other.close()

    def take(self, batches: int) -> None:
        """Waits until the side has taken some batches from its loader.

        Args:
            batches: how many.

        Raises:
            SideError: if the loader fails.
        """
        self.connection.send(batches)
        try:
            fault = self.connection.recv()
        except EOFError:
            raise SideError(f"{self.job.kind}: the process ended; is there enough memory?") from None
        if fault is not None:
            raise fault

    def cpu_seconds_of(self, batches: int) -> float:
        """Measures the CPU seconds of the process and its workers for some batches, from full queue to full queue."""
        before = self._settled()
        self.take(batches)
        return self._settled() - before

    def _settled(self) -> float:
        """The CPU seconds once the loader has filled up its queue."""
        used = cpu_seconds(self._pid)
        while True:
            time.sleep(SETTLED)
            now = cpu_seconds(self._pid)
            if now - used <= 0.1 * SETTLED:
                return now
            used = now

    @property
    def _pid(self) -> int:
        assert self.process.pid is not None  # of a started process
        return self.process.pid

    def __enter__(self) -> LoaderSide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()
        self.process.join(timeout=20)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def family(pid: int) -> list[int]:
    """Lists the process `pid` and all its living descendants."""
    parents = {int(place.name): _parent(place) for place in Path("/proc").iterdir() if place.name.isdigit()}
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def _parent(place: Path) -> int | None:
    """The parent of a process by its proc(5) directory; None when it has ended meanwhile."""
    try:
        return int((place / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def cpu_seconds(pid: int) -> float:
    """Reads user and system seconds that a process and its living descendants have used, to the nanosecond.

    Args:
        pid: of the process.

    Returns:
        Seconds.

    Raises:
        SideError: on another system than Linux.
    """
    if not sys.platform.startswith("linux"):
        raise SideError("CPU seconds of other processes are read as on Linux; this system is another")
    return sum(_cpu_clock(member) for member in family(pid))


def _cpu_clock(pid: int) -> float:
    try:
        return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) gives
    except OSError:  # it has ended
        return 0.0


def resident_bytes(pid: int) -> int:
    """Reads the resident memory of a process; 0 when it has ended."""
    try:
        rows = (Path(f"/proc/{pid}") / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Rss:"))
