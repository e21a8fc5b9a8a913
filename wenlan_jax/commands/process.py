"""A command as a process: its exit status, its faults in one line, and how it leaves a job of several processes.

Nothing heavy is imported here; what only some commands load is looked up among the modules that are loaded.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable

from wenlan_jax.util import interrupts
from wenlan_jax.util.errors import WenlanError

GARBAGE_AFTER = 10_000
"""New objects between two searches for garbage. Python's default, 700, has importing jax and tracing a model walk a
million objects several times, which takes a quarter of the start and frees nothing; so does the last search at exit."""


def prepare() -> None:
    """Sets up this process, before the command line is read."""
    gc.set_threshold(GARBAGE_AFTER)
    atexit.register(gc.freeze)
    _print_anything()
    logging.basicConfig(format="%(levelname)s: %(message)s")


def run(command: Callable[[], int], parsed: argparse.Namespace) -> int:
    """Runs a command and explains its fault.

    Args:
        command: does it.
        parsed: its arguments, for messages.

    Returns:
        The exit status: 0 if done, 1 after an explained fault, 128 + n if signal n stopped it.

    Raises:
        Exception: a fault that is a bug, with its traceback.
    """
    return _end(_status_of(command, parsed))


def _print_anything() -> None:
    """Has what a terminal has no characters for, or a path no text for, printed as escapes; it would be a fault."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _status_of(command: Callable[[], int], parsed: argparse.Namespace) -> int:
    try:
        interrupts.are_raised()
        return command()
    except BrokenPipeError:
        # The reader went away, as in `wenlan fields | head`; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        number = getattr(error, "signal", None)
        if number is not None:
            print(error, flush=True)
            return 128 + int(number)
        explanation = _explain(error, parsed)
        if explanation is not None:
            print(f"wenlan {parsed.command}: {explanation}", file=sys.stderr)
        elif _in_a_job():
            traceback.print_exception(error)  # raised, it would wait for the other processes before it is shown
        else:
            raise
        return _leave(1)
    except KeyboardInterrupt:
        print(f"wenlan {parsed.command}: interrupted", file=sys.stderr)
        return _leave(130)


def _in_a_job() -> bool:
    """Whether this is one of several processes; the module is imported only by commands that may join a job."""
    distributed = sys.modules.get("wenlan_jax.parallel.distributed")
    return distributed is not None and bool(distributed.in_a_job())


def _end(status: int) -> int:
    """Returns `status`, unless a call was left behind that the normal way out would wait for, or fall over."""
    waiting = sys.modules.get("wenlan_jax.parallel.interruptible_calls")
    if waiting is None or not waiting.abandoned():
        return status
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _leave(status: int) -> int:
    """Leaves the job that this process may be part of, without waiting for processes that wait for this one."""
    return int(sys.modules["wenlan_jax.parallel.distributed"].leave(status)) if _in_a_job() else status


def _explain(error: Exception, parsed: argparse.Namespace) -> str | None:
    """The message of an error of ours, or of the system's with its path; None for any other error, which is a bug."""
    if isinstance(error, WenlanError):
        return str(error)
    if _in_a_job() and (lost := sys.modules["wenlan_jax.parallel.distributed"].lost_peer(error)) is not None:
        return str(lost)
    if not isinstance(error, OSError):
        return None
    reason = error.strerror or str(error)
    if error.filename is None:
        # Writing to an open file, as on a full disk: the system does not say which one.
        place = getattr(parsed, "out", None) or getattr(parsed, "workdir", None)  # with both, the latter is read
        return f"{reason} (this command writes to {place})" if place else reason
    if isinstance(error, FileExistsError) and os.path.isfile(error.filename):
        reason = "is a file; a directory is needed"
    return f"{error.filename}: {reason}"
