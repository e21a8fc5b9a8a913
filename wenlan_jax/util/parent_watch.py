"""Workers end with the process that started them, however that ended, so that none writes beside a successor."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_SECONDS = 0.5  # between two looks at the parent


def end_with(parent: int, *_: object) -> None:
    """Has a worker end with the process that started it, and end without a word on Ctrl-C. Call it in the worker.

    Linux kills at once; elsewhere, or where a container hides that call, a thread looks whether the parent is there.

    Args:
        parent: the id of the process that started it.
        *_: not read; some pools pass more.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Holds Ctrl-C back while workers are made and started; it reaches all processes of a terminal and waits in each.

    The system hands the mask of signals on to the workers, and `end_with` takes it off. Here the mask does not do, as a
    signal may come to any thread, so it is noted and raised again. A handler is of the main thread; others set none.
    """
    resource_tracker.ensure_running()  # which takes the mask off when it starts
    heard: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number)) if is_main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if is_main:
            signal.signal(signal.SIGINT, handler)
        if heard:
            signal.raise_signal(signal.SIGINT)


def interrupt_too(kind: type[BaseException] | None, *_: object) -> None:
    """On the way out by Ctrl-C, passes it on to the workers: one that was started after it has not heard it."""
    if kind is not None and issubclass(kind, KeyboardInterrupt):
        for worker in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGINT)  # type: ignore[arg-type]  # it was started, so it has one


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(1)
