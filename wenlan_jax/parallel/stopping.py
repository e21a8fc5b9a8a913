"""Stopping on request: a signal to any process asks, the loops of all answer after the same step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from wenlan_jax.parallel import mesh as meshes


class Stopped(RuntimeError):  # noqa: N818 - not a fault
    """The run was asked to stop by a signal; its state is saved.

    Attributes:
        signal: the number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class StopSignal:
    """While entered, SIGINT and SIGTERM ask the loop to stop after the current step; a second SIGINT interrupts.

    Python lets the main thread alone catch signals; entered in another, it catches none.

    Attributes:
        number: of the signal that was caught; 0 for none.
        at_once: whether a signal is answered at once, see `set_at_once`.
    """

    def __init__(self) -> None:
        self.number = 0
        self.at_once = False

    def __enter__(self) -> StopSignal:
        _entered.append(self)
        caught = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        self._before = {s: signal.signal(s, self._ask) for s in caught}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        # From whichever process was asked, as only its log can tell.
        when = (
            "now" if self.at_once else "after this step; the state will be saved (Ctrl-C again: stop at once, without)"
        )
        print(f"stopping {when}", flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        _entered.remove(self)


_entered: list[StopSignal] = []  # signals are of the process, and so is who catches them


def asked() -> int:
    """Returns the number of the signal that was caught and asks to stop, or 0."""
    return max((stop.number for stop in _entered), default=0)


def set_at_once(value: bool) -> None:
    """Sets whether a signal is answered at once: while the process only waits for a call, there is nothing to save."""
    for stop in _entered:
        stop.at_once = value


def name(number: int) -> str:
    """Returns a signal's name, such as SIGTERM."""
    return signal.Signals(number).name


class StopAgreement:
    """Tells by which signal all processes of a job stop now: all get the same answer after the same step.

    Requests go round as the maximum of one number a device, computed after a step and read after the next one, when
    it is long there: no step waits for it. A process alone answers by its own request, at once.

    Args:
        stop: the signals of this process.
        mesh: the devices of the job.
    """

    def __init__(self, stop: StopSignal, mesh: Mesh) -> None:
        self._stop = stop
        self._by_device = NamedSharding(mesh, P(mesh.axis_names))
        self._highest = jax.jit(jnp.max, out_shardings=meshes.replicated(mesh))
        self._asked: jax.Array | None = None

    def __call__(self) -> int:
        """Returns the signal's number, or 0 to go on. Call it once after every step, in every process."""
        if jax.process_count() == 1:
            return self._stop.number
        before = self._asked
        requests = np.full(jax.local_device_count(), self._stop.number, np.int32)
        self._asked = self._highest(jax.make_array_from_process_local_data(self._by_device, requests))
        return 0 if before is None else int(before)
