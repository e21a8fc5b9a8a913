"""Who works on a run: a file that only one process can create, kept alive by its time of change.

The machines that share a directory need no other connection. A claim whose holder has died, by its process on this
machine or by its silence on another, may be taken over.

filelock's leases are none of this: they are taken from a killed sweep whose training still writes, and whoever finds
one has to watch it for as long as the silence may last, though its time of change tells that it was silent for an hour.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from wenlan_jax.util import atomic_files, json_files

HOST = socket.gethostname()
"""This machine's name in claims and failures."""

BEAT_SECONDS = 15.0
"""Between two signs of life."""

_LARGEST_PID = 2**31 - 1
"""That a system call takes."""

STALE_SECONDS = 240.0
"""Silence after which a holder on another machine counts as dead; NFS may show a time of change a minute late."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """What a claim says.

    Attributes:
        host: the name of the machine.
        machine: within which a process number means one process, see `machine`.
        pid: the process that holds the claim.
        token: tells claims apart.
        child: the training's process, 0 before it is started.
    """

    host: str
    machine: str
    pid: int
    token: str
    child: int = 0

    def __str__(self) -> str:
        return f"{self.host}, process {self.child or self.pid}"


def machine() -> str:
    """Returns what tells apart the machines, and their containers, within which a process number means one process."""
    names = [HOST]
    with contextlib.suppress(OSError):  # Linux only
        names += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(names)


class Claim:
    """A claim of this process on the run whose claim file is `path`; see `take`."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder

    def name_child(self, pid: int) -> None:
        """Notes the training's process, which may outlive this one."""
        self.holder = dataclasses.replace(self.holder, child=pid)
        _replace(self.path, self.holder)

    def beat(self) -> bool:
        """Gives a sign of life.

        Returns:
            False if the claim was taken over in the meantime, as after a long standstill.
        """
        found = _read(self.path)
        if found is None or found.token != self.holder.token:
            return False
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path)
        return True

    def release(self) -> None:
        """Gives the run back."""
        found = _read(self.path)
        if found is not None and found.token == self.holder.token:
            self.path.unlink(missing_ok=True)


def take(path: Path) -> Claim | None:
    """Claims a run.

    Args:
        path: its claim file.

    Returns:
        The claim, or None if somebody alive holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Holder(HOST, machine(), os.getpid(), uuid.uuid4().hex)
    if _create(path, holder) or _take_over(path, holder):
        return Claim(path, holder)
    return None


def holder(path: Path) -> Holder | None:
    """Returns who holds a claim; None if nobody alive does."""
    found = _read(path)
    return None if found is None or _is_stale(path, found) else found


def _is_stale(path: Path, found: Holder) -> bool:
    if not path.is_file():
        return path.exists()  # whatever it is, no holder gives it signs of life
    if found.machine == machine() and found.pid:
        if found.child and _trains(found.child, path.parent.name):
            return False  # it may have outlived a sweep that was killed, and still writes
        if not _lives(found.pid):
            return True
    return _age(path) > STALE_SECONDS


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _trains(pid: int, run: str) -> bool:
    """Whether process `pid` lives and is that of `run`, not a later one of the same number or a dead one's entry."""
    try:
        return run in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except FileNotFoundError:
        return not Path("/proc").exists() and _lives(pid)
    except OSError:
        return _lives(pid)


def _age(path: Path) -> float:
    """Seconds since `path` changed, by the clock of the machine that stores it; 0 where it is gone."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".now-") as now:
        try:
            return os.stat(now.name).st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0


def _take_over(path: Path, holder: Holder) -> bool:
    """Replaces a stale claim. Of several processes that try, one alone holds the lock, and looks once more."""
    found = _read(path)
    if found is None or not _is_stale(path, found):
        return False
    json_files.make_way(path.with_name("claim.lock"))
    with _lock(path.with_name("claim.lock")) as locked:
        if not locked or _read(path) != found:
            return False
        _replace(path, holder)
        return True


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Whether this process alone holds `path` for the moment of a takeover; one left behind by a kill is removed."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        if _age(path) > STALE_SECONDS:
            path.unlink(missing_ok=True)
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)


def _create(path: Path, holder: Holder) -> bool:
    """Creates the claim if there is none, which one process alone can do."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(file, "w") as stream:
        stream.write(json.dumps(dataclasses.asdict(holder)))
    return True


def _replace(path: Path, holder: Holder) -> None:
    json_files.make_way(path)
    atomic_files.write_json(path, dataclasses.asdict(holder), shared=True)


def _read(path: Path) -> Holder | None:
    """The holder that a claim names; None where there is no claim. One that is not whole yet has a nameless holder."""
    try:
        found = json_files.read(path, Holder)
    except json_files.NoteError:
        return Holder("?", "", 0, "") if path.exists() else None
    numbers = (found.pid, found.child)
    return found if all(0 <= number <= _LARGEST_PID for number in numbers) else Holder("?", "", 0, "")
