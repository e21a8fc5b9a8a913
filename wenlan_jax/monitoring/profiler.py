"""A trace of a few steps for xprof or TensorBoard: what ran on host and devices, and when."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType

import jax

from wenlan_jax.parallel.console import say


def parse(setting: str) -> tuple[int, int]:
    """Reads the setting `FIRST:COUNT`.

    Args:
        setting: the setting; "" for none.

    Returns:
        First and last step, numbered from 1 as in the log; (0, 0) for the empty setting.
    """
    if not setting:
        return 0, 0
    first, count = (int(number) for number in setting.split(":"))
    return first, first + count - 1


class Profiler:
    """Traces some steps, each process its own devices.

    A context manager, which ends a trace that is still going on. Between the steps the loop calls `turn`.

    Args:
        setting: which steps, see `parse`.
        directory: where the trace goes.
    """

    def __init__(self, setting: str, directory: Path) -> None:
        self._first, self._last = parse(setting)
        # Trace files are named after the machine, on which there may be several processes.
        self._place = directory / f"process_{jax.process_index()}" if jax.process_count() > 1 else directory
        self._tracing = False

    def due(self, done: int) -> bool:
        """Says whether `turn` has something to do after `done` steps."""
        return self._first > 0 and done in (self._first - 1, self._last)

    def turn(self, done: int) -> None:
        """Starts the trace before its first step and ends it after its last one; every dispatched step must be done."""
        if self._tracing and done >= self._last:
            self._stop()
        elif self._first > 0 and done == self._first - 1:
            say(f"profiling steps {self._first} to {self._last} ...")
            jax.profiler.start_trace(str(self._place))
            self._tracing = True

    def _stop(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
        say(f"a trace of the steps is in {self._place}; open it with `xprof --logdir={self._place}` or TensorBoard")

    def __enter__(self) -> Profiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._tracing:
            return
        with contextlib.suppress(RuntimeError) if kind else contextlib.nullcontext():
            self._stop()
