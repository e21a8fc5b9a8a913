"""A watchdog: a process that hangs says where and ends, so that whoever started it can start it again.

A collective whose partner is gone, a data source that does not answer or a driver that is stuck cannot be
interrupted from Python: the main thread never returns from the call. So a thread of its own looks at the ledger. If
no step is finished for `telemetry.hang_seconds`, or another phase (start, compile, evaluation, checkpoints) does not
end within `telemetry.hang_seconds_between`, it prints the stacks of all threads and leaves the process with status
`EXIT_HUNG`. Checkpoints that are complete stay as they are. In a job of several processes each has its own.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import threading
import time
from types import TracebackType

from wenlan_jax.config import sections
from wenlan_jax.monitoring import time_ledger

EXIT_HUNG = 75
"""The exit status, EX_TEMPFAIL of sysexits.h: a failure that may pass when the command is run again."""

CHECKS = 20
"""Looks within the shorter limit, so that a hang is noticed at most a twentieth late."""

LONGEST_BETWEEN_CHECKS = 10.0
"""Seconds."""

REPORT_SECONDS = 10.0
"""What the report may take before the process ends without the rest of it."""

WHILE_STEPPING = (time_ledger.WAIT, time_ledger.STEPS, time_ledger.OTHER)


class Watchdog:
    """Ends a process that hangs. It watches from a thread while entered; with both limits 0 it does nothing.

    Args:
        clock: what it watches.
        settings: the section `telemetry` of the configuration, for the limits in seconds.
    """

    def __init__(self, clock: time_ledger.TimeLedger, settings: sections.TelemetryConfig) -> None:
        self._clock = clock
        self._limits = {"step": settings.hang_seconds, "between": settings.hang_seconds_between}
        shortest = min((limit for limit in self._limits.values() if limit > 0), default=0.0)
        self._pause = min(shortest / CHECKS, LONGEST_BETWEEN_CHECKS)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def _now(self) -> tuple[str, int]:
        """Where the run is: this changes whenever it gets on."""
        phase = self._clock.phase
        return ("step" if phase in WHILE_STEPPING else phase), self._clock.done

    def _watch(self) -> None:
        before, quiet, looked = self._now(), 0.0, time.monotonic()
        while not self._ended.wait(self._pause):
            now, since = self._now(), time.monotonic() - looked
            looked += since
            # A process that was stopped, e.g. by Ctrl-Z or with the whole machine, could not get on meanwhile.
            quiet = quiet + min(since, 2 * self._pause) if now == before else 0.0
            before = now
            limit = self._limits["step" if now[0] == "step" else "between"]
            if 0 < limit < quiet:
                self._end(quiet)

    def _end(self, quiet: float) -> None:
        # From a thread again: a pipe that nobody reads or a hung file system must not keep the process.
        report = threading.Thread(target=self._report, args=(quiet,), name="watchdog's report", daemon=True)
        report.start()
        report.join(REPORT_SECONDS)
        for child in multiprocessing.active_children():  # data workers; nobody else would end them
            child.kill()
        os._exit(EXIT_HUNG)

    def _report(self, quiet: float) -> None:
        phase, done = self._clock.phase, self._clock.done
        print(
            f"wenlan train: hung in the phase '{phase}' for {quiet:.0f} s, {done} steps done; the stacks of all "
            f"threads follow, then this process ends with status {EXIT_HUNG}. The same command continues from the "
            "newest checkpoint. If this was slow and not stuck, raise telemetry.hang_seconds (steps) or "
            "telemetry.hang_seconds_between (other phases)",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        self._clock.write("hung")
        sys.stdout.flush()

    def __enter__(self) -> Watchdog:
        if self._pause > 0:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
