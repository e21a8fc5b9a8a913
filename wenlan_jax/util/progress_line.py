"""Progress of long data jobs, for the person at the terminal: lines on stderr, one every few seconds."""

from __future__ import annotations

import sys
import time

SECONDS = 5.0
"""Between two lines of a job."""


def say(line: str) -> None:
    """Prints one line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


class ProgressLine:
    """Says when the next line of a job is due; the job begins now."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the job began."""
        return time.monotonic() - self._started

    def due(self) -> bool:
        """Says whether a line is due; if so, the next one is due `SECONDS` later."""
        now = time.monotonic()
        if now - self._last < SECONDS:
            return False
        self._last = now
        return True
