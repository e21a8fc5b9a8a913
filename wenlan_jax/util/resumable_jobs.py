"""Long data jobs as units of work: done side by side in processes, each once, and continued where they stopped.

A unit is a shard of the input. Its report is stored when all that it writes is written, so a job that was killed does
the units without a report again, and only these. Workers are spawned and never import jax.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from wenlan_jax.util import atomic_files, json_files, parent_watch, progress_line
from wenlan_jax.util.errors import WenlanError

U = TypeVar("U")
Report = dict[str, Any]

_REPORTS, _IDENTITY = "reports", "identity.json"
_SHOWN, _SHORT = 5, 80  # differences that an error names, and characters of a value in it
_ABSENT = object()


class JobError(WenlanError, ValueError):
    """A job that cannot go on; the message says why and what to do."""


def run(
    work: Callable[[int, U], Report],
    units: Sequence[U],
    directory: Path,
    identity: Mapping[str, Any],
    workers: int,
    what: str,
) -> list[Report]:
    """Runs a job for every unit that has no report yet.

    An exception of `work` ends the job after the units that are under way; what is done stays done.

    Args:
        work: does a unit, called as `work(number, unit)`; picklable; returns what `json` can store.
        units: all units of the job.
        directory: where reports are kept.
        identity: the options that the result depends on.
        workers: processes; 0 runs in this one.
        what: names the job in progress lines and in the directory, e.g. "pack"; a job of two phases runs twice, under
            two names.

    Returns:
        All reports, by unit.

    Raises:
        UnitError: if work was begun with another `identity`.
    """
    place = directory / what
    _begin(place, identity, directory)
    missing = [number for number in range(len(units)) if not _is_done(place, number)]
    before = len(units) - len(missing)
    if before:
        progress_line.say(f"{what}: {before} of {len(units)} units were done before")
    beat = progress_line.ProgressLine()
    for done, number in enumerate(_finished(work, units, missing, place, workers), start=1):
        if beat.due() or (done == len(missing) and beat.seconds >= progress_line.SECONDS):
            left = beat.seconds / done * (len(missing) - done)
            progress_line.say(
                f"{what}: {before + done} of {len(units)} units, the last {_name(units[number])}; {left:.0f} s left"
            )
    return [_read(_report(place, number)) for number in range(len(units))]


def clear(directory: Path, what: str) -> None:
    """Removes the reports of a job, which are of no use in a finished directory.

    Args:
        directory: where reports are kept.
        what: the name of the job.
    """
    place = directory / what
    for file in [*(place / _REPORTS).glob("*"), place / _IDENTITY]:
        file.unlink(missing_ok=True)
    for folder in (place / _REPORTS, place):
        folder.rmdir()


def _begin(place: Path, identity: Mapping[str, Any], directory: Path) -> None:
    wanted = atomic_files.json_bytes(identity, sort_keys=True, indent=1, default=str).decode("utf-8")
    file = place / _IDENTITY
    (place / _REPORTS).mkdir(parents=True, exist_ok=True)
    if not file.exists():
        atomic_files.write(file, atomic_files.text_bytes(wanted))
        return
    try:
        before = json_files.read(file, dict[str, Any])
    except json_files.NoteError as error:
        raise JobError(
            f"{error}, so that it is not known what this unfinished work is of; remove {directory}"
        ) from error
    now = json.loads(wanted)
    if before != now:
        raise JobError(
            f"{directory}: holds unfinished work with other options ({_changes(before, now)}); "
            "repeat the command with those, or remove that directory"
        )


def _changes(before: Report, now: Report) -> str:
    """What differs between two identities: the fields themselves, a few of them, with short values."""
    earlier, later = dict(_leaves(before, "")), dict(_leaves(now, ""))
    changed = [name for name in {**earlier, **later} if earlier.get(name, _ABSENT) != later.get(name, _ABSENT)]
    told = [f"{name} was {_short(earlier, name)}, is {_short(later, name)}" for name in changed[:_SHOWN]]
    return "; ".join(told + [f"{len(changed) - _SHOWN} more"] * (len(changed) > _SHOWN))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The values within objects, by their dotted names; lists of plain values are one."""
    if isinstance(value, dict) and value:
        inner = [(f"{name}.{key}" if name else str(key), of) for key, of in value.items()]
    elif isinstance(value, list) and any(isinstance(of, dict | list) for of in value):
        inner = [(f"{name}[{number}]", of) for number, of in enumerate(value)]
    else:
        yield name, value
        return
    for one, of in inner:
        yield from _leaves(of, one)


def _short(leaves: Mapping[str, Any], name: str) -> str:
    told = repr(leaves[name]) if name in leaves else "absent"
    return told if len(told) <= _SHORT else f"{told[: _SHORT - 3]}..."


def _finished(
    work: Callable[[int, U], Report], units: Sequence[U], missing: Sequence[int], place: Path, workers: int
) -> Iterator[int]:
    """The numbers of the units as they are done, with their reports stored."""
    if workers == 0:
        for number in missing:
            _do(work, number, units[number], place)
            yield number
        return
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as ended:
        with parent_watch.starting():
            held = (os.getpid(), atomic_files.HeldLocks())
            pool = concurrent.futures.ProcessPoolExecutor(
                min(workers, len(missing)) or 1, spawn, parent_watch.end_with, held
            )
            ended.callback(pool.shutdown, wait=True, cancel_futures=True)
            ended.push(parent_watch.interrupt_too)
            futures = {pool.submit(_do, work, number, units[number], place): number for number in missing}
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            undone = [_name(units[n]) for n in missing if not _is_done(place, n)][: 2 * workers]
            raise JobError(
                f"a worker process was killed, perhaps for want of memory; among the next units: {', '.join(undone)}. "
                "Run the command again to go on, with fewer --workers if memory is short"
            ) from error


def _do(work: Callable[[int, U], Report], number: int, unit: U, place: Path) -> None:
    report = atomic_files.json_bytes(work(number, unit))
    json_files.make_way(_report(place, number))
    atomic_files.write(_report(place, number), f"{zlib.crc32(report):08x} ".encode() + report)


def _read(file: Path) -> Report:
    """The report of a unit. Raises NoteError for one that is not what was written."""
    content = json_files.read_bytes(file)
    known, _, report = content.partition(b" ")
    if known != f"{zlib.crc32(report):08x}".encode():
        raise json_files.NoteError(f"{file}: is not the report that was written")
    return json_files.parse(report, dict[str, Any], str(file))


def _is_done(place: Path, number: int) -> bool:
    """Whether a unit has its report; with a damaged one it is done again."""
    file = _report(place, number)
    if not file.exists():
        return False
    try:
        _read(file)
    except json_files.NoteError as error:
        progress_line.say(f"{error}; doing the unit again")
        return False
    return True


def _report(place: Path, number: int) -> Path:
    return place / _REPORTS / f"{number:06d}.json"


def _name(unit: object) -> str:
    return str(getattr(unit, "name", unit))
