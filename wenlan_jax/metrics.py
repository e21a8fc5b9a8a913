"""Metrics on their way out: JSON lines always, TensorBoard if it is installed, and the ledger of a run's time."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

_log = logging.getLogger(__name__)


class MetricsWriter:
    """Appends flat dicts to `metrics.jsonl`, and to TensorBoard event files where tensorboardX is installed.

    Opened at step s it first drops the lines of later steps, which a killed run wrote after its last checkpoint.
    What is written for step s itself replaces the line of the same fields, as a finished run that is started again
    evaluates its last step once more.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self.path = directory / "metrics.jsonl"
        self._opened_at = step
        self._keep([row for row in read(self.path) if row["step"] <= step])
        self._file = self.path.open("a")
        self._board: Any = None
        if importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

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
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


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


class Ledger:
    """Where the time of a run went, by name; what nothing claims is `other`."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Counts the time inside the block to `name`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin

    def summary(self) -> dict[str, float]:
        """Seconds by name, with `other` and `total`."""
        total = time.perf_counter() - self.start
        return {**self.seconds, "other": total - sum(self.seconds.values()), "total": total}


def memory_gib() -> dict[str, float]:
    """Peak memory of this process, and of its first accelerator where it tells, in GiB."""
    # Linux reports kibibytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    memory = {"host_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        memory["device_memory_gib"] = stats["peak_bytes_in_use"] / 2**30
    return memory
