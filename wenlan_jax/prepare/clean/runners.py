"""Where the passes and rules of a cleaning job run; this file has the one for a single machine, `beam.py` the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from wenlan_jax.prepare.clean import rules, search
from wenlan_jax.prepare.clean.shards import Shard
from wenlan_jax.util import resumable_jobs

Work = Callable[[int, Shard], dict[str, Any]]


@runtime_checkable
class Runner(Protocol):
    """Runs work on units, once each, and rules over tables. Results do not depend on the runner."""

    def map(
        self, work: Work, shards: Sequence[Shard], directory: Path, identity: Mapping[str, Any], what: str
    ) -> list[dict[str, Any]]:
        """The reports of `work` on all units, in their order, as `units.run`."""
        ...

    def find(self, rule: rules.Rule, table: rules.Rows, alive: np.ndarray, scratch: Path, memory: int) -> np.ndarray:
        """As `search.find`."""
        ...


@dataclasses.dataclass(frozen=True)
class Local:
    """Processes of this machine; 0 workers: this process."""

    workers: int

    def map(
        self, work: Work, shards: Sequence[Shard], directory: Path, identity: Mapping[str, Any], what: str
    ) -> list[dict[str, Any]]:
        return resumable_jobs.run(work, shards, directory, identity, self.workers, what)

    def find(self, rule: rules.Rule, table: rules.Rows, alive: np.ndarray, scratch: Path, memory: int) -> np.ndarray:
        return search.find(rule, table, alive, scratch, memory)
