"""When the step that was dispatched last is done, without waiting for it in the thread that dispatches.

Steps run while the host fetches the next batch. Only what the host waits after the step is done costs time; a thread
that waits for the step's metrics learns when that was.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from types import TracebackType

import jax


class StepTimer:
    """Notes when each watched step is done. A context manager, which ends its thread."""

    def __init__(self) -> None:
        self._steps: queue.SimpleQueue[dict[str, jax.Array] | None] = queue.SimpleQueue()
        self._watched = 0
        self._finished = (0, 0.0)
        self._thread = threading.Thread(target=self._wait, name="step in flight", daemon=True)

    def watch(self, metrics: dict[str, jax.Array]) -> None:
        """Watches a step that was just dispatched, by its outputs."""
        self._watched += 1
        self._steps.put(metrics)

    def busy_seconds(self, begin: float, end: float) -> float:
        """Says how long the last watched step was under way.

        Args:
            begin: of `time.perf_counter`.
            end: now.

        Returns:
            Seconds between the two.
        """
        number, at = self._finished
        done = end if number < self._watched else at
        return min(max(done - begin, 0.0), end - begin)

    def _wait(self) -> None:
        number = 0
        while (step := self._steps.get()) is not None:
            number += 1
            with contextlib.suppress(Exception):  # the loop meets it too, when it reads the metrics
                jax.block_until_ready(step)
            self._finished = (number, time.perf_counter())

    def __enter__(self) -> StepTimer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._steps.put(None)
