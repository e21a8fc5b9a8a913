"""Metrics as JSON lines, and the memory that a process uses."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


class MetricsWriter:
    """Appends flat dicts to `metrics.jsonl`.

    Opened at step s it first drops the lines of later steps, which a killed run wrote after its last checkpoint.
    What is written for step s itself replaces the line of the same fields, as a finished run that is started again
    evaluates its last step once more.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self.path = directory / "metrics.jsonl"
        self._opened_at = step
        self._keep([row for row in read(self.path) if row["step"] <= step])
        self._file = self.path.open("a")

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        fresh = self.path.with_suffix(".tmp")
        fresh.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(fresh, self.path)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line; numbers that are not finite are written as null, as JSON has no name for them."""
        clean = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = {"step": step, **clean}
        if step == self._opened_at:
            self._file.close()
            self._keep([row for row in read(self.path) if row["step"] != step or row.keys() != line.keys()])
            self._file = self.path.open("a")
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a missing file is empty.

    Lines that are no JSON object with a whole `step`, such as one cut off by a kill, are left out with a warning.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif line.strip():
            _log.warning("%s: line %d is not a whole metrics line and is left out", path, number)
    return rows


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def memory_gib() -> dict[str, float]:
    """Memory in GiB: peak of this process; peak and present use of its fullest accelerator, where they tell."""
    # Linux reports kibibytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    memory = {"host_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
    import jax  # the rest of this module is read without it

    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    for name, key in {"device_memory_gib": "peak_bytes_in_use", "device_memory_in_use_gib": "bytes_in_use"}.items():
        found = [of_device[key] for of_device in stats if key in of_device]
        if found:
            memory[name] = max(found) / 2**30
    return memory
