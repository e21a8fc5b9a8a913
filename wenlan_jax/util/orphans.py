"""Workers end with the process that started them, however that ended, so that none writes beside a successor."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_SECONDS = 0.5  # between two looks at the parent


def end_with(parent: int, *_: object) -> None:
    """Called in a worker: kills it when process `parent` is gone.

    Linux does so at once; elsewhere, or where a container hides that call, a thread looks whether the parent is there.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(1)
