"""Metrics as JSON lines, and the memory that a process uses."""

from __future__ import annotations

import json
import logging
import math
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wenlan_jax.util import atomic_files, json_files

_log = logging.getLogger(__name__)


class MetricsWriter:
    """Appends flat dicts to `metrics.jsonl`.

    Opened at step s it first drops the lines of later steps, which a killed run wrote after its last checkpoint.
    What is written for step s itself replaces the line of the same fields, as a finished run that is started again
    evaluates its last step once more.

    Args:
        directory: the work directory of the run.
        step: the step that the run goes on from.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self.path = directory / "metrics.jsonl"
        self._opened_at = step
        self._keep([row for row in read(self.path) if row["step"] <= step])
        self._file = self.path.open("a")

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        atomic_files.write(self.path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line; numbers that are not finite are written as null, as JSON has no name for them."""
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
    """Reads the lines of a `metrics.jsonl`; a missing file is empty.

    Lines that are no JSON object of numbers with a whole `step`, such as one cut off by a kill, are left out with a
    warning.

    Args:
        path: the file.

    Returns:
        One dict a line.

    Raises:
        NoteError: where something else than a file stands in its place.
    """
    rows, damaged = read_counted(path)
    for number in damaged:
        _log.warning("%s: line %d is not a whole metrics line and is left out", path, number)
    return rows


def read_counted(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Reads lines as `read` does, without warnings.

    Args:
        path: the file.

    Returns:
        One dict a line, and the numbers of the lines that are left out.
    """
    return json_files.read_lines(path, dict[str, int | float | None], lambda row: type(row.get("step")) is int)


def memory_gib() -> dict[str, float]:
    """Measures memory in GiB.

    Returns:
        `host_memory_gib`, the peak of this process; `device_memory_gib` and `device_memory_in_use_gib`, peak and
        present use of its fullest accelerator, where it tells.
    """
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
