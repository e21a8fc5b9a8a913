"""Stopping on request: a signal asks, the loop answers after its step."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

from wenlan_jax.progress import say


class Stopped(RuntimeError):  # noqa: N818 - not a fault
    """The run was asked to stop by a signal; its state is saved. `signal` is the number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class StopSignal:
    """While entered, SIGINT and SIGTERM ask the loop to stop after the current step; a second SIGINT interrupts."""

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> StopSignal:
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        say("stopping after this step; the state will be saved (Ctrl-C again: stop at once, without)")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
