"""Directories and files that appear in their place only when complete: written at once, or over several runs."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from wenlan_jax.util.errors import WenlanError

_PATIENCE = 1.0
"""Seconds that a lock is waited for."""


class PlaceError(WenlanError, ValueError):
    """A directory that cannot be written; the message says why and what to do."""


class BusyError(PlaceError):
    """Another process is writing the same directory."""


@contextlib.contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """Gives an empty directory to fill, which takes the name of `place` when the block ends without an error.

    Until then `place` keeps what it held. A block that fails leaves no trace; what a killed process left behind is
    cleared by the next.

    Args:
        place: the directory to replace.

    Yields:
        A directory beside it.

    Raises:
        BusyError: when another process fills the same place.
        PlaceError: when the directory cannot be written.

    Example:
        >>> with atomic_files.replacing(out) as directory:
        ...     (directory / "result.json").write_text("{}")
    """
    with _locked(place) as directory:
        try:
            _clear(directory)
            yield directory
            _move(directory, place.resolve())
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise


@contextlib.contextmanager
def resumable(place: Path) -> Iterator[Path]:
    """Gives a directory as `replacing` does, for work that goes on where it stopped.

    What a failed or killed block wrote is kept. The directory is `.NAME.incomplete` beside `place`; removing it starts
    the work anew.

    Args:
        place: the directory to replace.

    Yields:
        A directory beside it.

    Raises:
        BusyError: when another process fills the same place.
        PlaceError: when the directory cannot be written.
    """
    with _locked(place) as directory:
        yield directory
        _move(directory, place.resolve())


def unfinished(place: Path) -> Path:
    """Says where `replacing` and `resumable` keep what is not complete yet."""
    place = place.resolve()
    return place.with_name(f".{place.name}.incomplete")


def is_taken(place: Path, mark: str) -> bool:
    """Says whether a new result must not replace `place`: it is neither absent, nor empty, nor has the file `mark`."""
    replaceable = place.is_dir() and ((place / mark).is_file() or not any(place.iterdir()))
    return place.exists() and not replaceable


KINDS = {
    "dataset_info.json": "is a packed data set",
    "checkpoints": "is the work directory of a run",
    "start.json": "is the work directory of a run",
    "embeddings.json": "holds embeddings that `wenlan embed` wrote",
    "scores.json": "holds scores that `wenlan score` wrote",
}
"""What a directory is that has a file or folder of this name."""


def check_kind(place: Path, mark: str) -> None:
    """Checks that a directory does not hold something of another kind.

    Args:
        place: the directory.
        mark: the file or folder that tells the kind that is wanted, see `KINDS`.

    Raises:
        PlaceError: if it does.
    """
    for name, what in KINDS.items():
        if name != mark and (place / name).exists():
            raise PlaceError(f"{place}: {what} ({name} is in it); name another --out")


def stamp(file: str | Path) -> list[int]:
    """Returns size and time of change of a file, by which later work knows that it is still the same."""
    state = os.stat(file)
    return [state.st_size, state.st_mtime_ns]


def write(file: Path, data: bytes, shared: bool = False) -> None:
    """Writes a small file so that it is whole or not there; its folder is made.

    Args:
        file: the file.
        data: its content.
        shared: other processes may write it at the same time; then what a kill leaves behind is not overwritten.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8] if shared else 'partial'}")
    partial.write_bytes(data)
    partial.replace(file)


def write_json(file: Path, content: Any, shared: bool = False) -> None:
    """Writes JSON as `write` does, for people to read, too.

    Args:
        file: the file.
        content: what it holds; what JSON has no form for is written as its string.
        shared: see `write`.
    """
    write(file, json_bytes(content, indent=1, default=str) + b"\n", shared)


def json_bytes(content: Any, **options: Any) -> bytes:
    """Returns the JSON of `content` in UTF-8."""
    return text_bytes(json.dumps(content, ensure_ascii=False, **options))


def text_bytes(text: str) -> bytes:
    """Returns a text in UTF-8.

    Bytes of file names that are not UTF-8, which Python keeps as surrogates, are escaped.
    """
    return text.encode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[Path]:
    directory = unfinished(place)
    if not _is_utf8(str(directory)):
        told = str(place).encode("utf-8", "backslashreplace").decode("utf-8")
        raise PlaceError(f"{told}: a name that is not UTF-8; choose another place")
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        # The system drops it when this process and all workers that share it (`held`) have ended. Those of a process
        # that was killed need a moment.
        _acquire(handle)
    except BlockingIOError as error:
        os.close(handle)
        raise BusyError(f"{place}: another process is writing it; wait for it or choose another place") from error
    _held.add(handle)
    try:
        yield directory
    finally:
        _held.discard(handle)
        os.close(handle)


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode("utf-8"))
    except UnicodeEncodeError:  # array_record and TFDS open nothing else
        return False


_held: set[int] = set()


def _acquire(handle: int, patience: float = _PATIENCE, on_wait: Callable[[], None] | None = None) -> None:
    """Locks an open file. Raises BlockingIOError after `patience` seconds; calls `on_wait` once before it waits."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        if on_wait is not None:
            on_wait()
            on_wait = None
        threading.Event().wait(_PATIENCE / 20)


@dataclasses.dataclass(frozen=True)
class HeldLocks:
    """The locks of this process; a worker that unpickles it while it is started holds them, too, until it ends."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _hold, tuple(reduction.DupFd(handle) for handle in sorted(_held))


def _hold(*handles: Any) -> HeldLocks:
    _held.update(handle.detach() for handle in handles)
    return HeldLocks()


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


@contextlib.contextmanager
def holding(directory: Path, patience: float = 0.0) -> Iterator[None]:
    """Holds a directory against other processes that would hold it; its file `.lock` says who does.

    The system drops the lock when the process ends, however it ends. Where the file system has no locks, nothing is
    held.

    Args:
        directory: a directory that exists.
        patience: seconds to wait for another holder to end.

    Raises:
        BusyError: names the other holder.
    """
    with open(directory / LOCK, "a+", encoding="utf-8", errors="replace") as handle:

        def at_work() -> str:
            handle.seek(0)
            return f"{directory}: {handle.read().strip() or 'another process'} is at work there"

        def tell() -> None:
            print(f"{at_work()}; waiting up to {patience:.0f} s for it to end", flush=True)

        try:
            _acquire(handle.fileno(), patience, tell)
        except BlockingIOError as error:
            raise BusyError(f"{at_work()}; wait for it, end it, or choose another directory") from error
        except OSError:  # some network file systems have no locks
            pass
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)


LOCK = ".lock"
"""In a directory that `holding` holds."""
