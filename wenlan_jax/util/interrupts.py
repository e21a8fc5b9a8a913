"""Ctrl-C while a command is imported, before anything can catch it: one line instead of a traceback.

Importing this module is enough, so it comes before all others.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    os.write(2, b"wenlan: interrupted\n")
    os._exit(128 + number)


def _is_command() -> bool:
    """Whether this process is `wenlan` itself, not a worker of it, nor a program that imports it."""
    name = os.path.basename(sys.argv[0]).removesuffix(".exe")
    processes = sys.modules.get("multiprocessing.process")
    is_worker = processes is not None and processes.parent_process() is not None
    return name in ("wenlan", "-m", "cli.py") and not is_worker


def are_raised() -> None:
    """Has Ctrl-C raise KeyboardInterrupt from here on, as usual."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where nohup has it ignored
    signal.signal(signal.SIGINT, _end)
