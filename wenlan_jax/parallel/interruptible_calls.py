"""Long calls into compiled code, which say what they do and in which Ctrl-C is heard.

Python handles signals between the instructions of its main thread, and a compiler keeps that thread for minutes. So
such a call runs in a thread of its own, and the main thread waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import jax

from wenlan_jax.parallel import stopping
from wenlan_jax.parallel.console import say

T = TypeVar("T")

LOOK_SECONDS = 0.1
"""Between two looks at whether the call is done or a signal has come."""

SAY_SECONDS = 30.0
"""Between two lines about a call that goes on."""

_abandoned = False


def aloud(what: str, action: Callable[[], T]) -> T:
    """Calls a function in a thread of its own, with a line about it every half minute.

    A call that is interrupted cannot be ended, so that the process must be left by `os._exit` then (see `abandoned`).
    In a job of several processes, which have to stop together, a caught signal waits for the end of the call.

    Args:
        what: what the call does, for the lines.
        action: the function.

    Returns:
        What the function returns; what it raises is raised.

    Raises:
        KeyboardInterrupt: for Ctrl-C.
        Stopped: for a signal, where a run catches signals.
    """
    call = _Call(action)
    began = said = time.monotonic()
    alone = jax.process_count() == 1
    stopping.set_at_once(alone)
    call.start()
    try:
        while not call.done.wait(LOOK_SECONDS):
            now = time.monotonic()
            if now - said >= SAY_SECONDS:
                said = now
                say(f"{what} goes on, {now - began:.0f} s so far")
            if alone and (number := stopping.asked()):
                raise stopping.Stopped(
                    f"stopped by {stopping.name(number)} during {what}, before the next step: there was nothing to "
                    "save, and the same command starts there again",
                    number,
                )
    except BaseException:
        _abandon()
        raise
    finally:
        stopping.set_at_once(False)
    return call.result()


def abandoned() -> bool:
    """Says whether a call was left behind that still runs, or may."""
    return _abandoned


def _abandon() -> None:
    global _abandoned
    _abandoned = True


class _Call(threading.Thread):
    """A function in a daemon thread, with what it returned or raised."""

    def __init__(self, action: Callable[[], T]) -> None:
        super().__init__(name="a long call", daemon=True)
        self.done = threading.Event()
        self._action = action
        self._value: object = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value = self._action()
        except BaseException as error:
            self._error = error
        finally:
            self.done.set()

    def result(self) -> T:  # type: ignore[type-var]
        """What the function returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]
