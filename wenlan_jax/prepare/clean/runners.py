"""Where the passes and rules of a cleaning job run; this file has the one for a single machine, `beam.py` the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from wenlan_jax.prepare.clean import rules, search
from wenlan_jax.prepare.clean.shards import RecordShard
from wenlan_jax.util import resumable_jobs

Work = Callable[[int, RecordShard], dict[str, Any]]


@runtime_checkable
class Runner(Protocol):
    """Runs work on units, once each, and rules over tables. Results do not depend on the runner."""

    def map(
        self, work: Work, shards: Sequence[RecordShard], directory: Path, identity: Mapping[str, Any], what: str
    ) -> list[dict[str, Any]]:
        """Runs a pass over all units, each once.

        Args:
            work: does a unit.
            shards: the units.
            directory: where reports are kept.
            identity: the options that the result depends on.
            what: the name of the pass.

        Returns:
            The reports of all units, in their order, as of `resumable_jobs.run`.
        """
        ...

    def find(
        self, rule: rules.CleanRule, table: rules.Rows, alive: np.ndarray, scratch: Path, memory: int
    ) -> np.ndarray:
        """Applies a rule to a table, as `search.find`."""
        ...


@dataclasses.dataclass(frozen=True)
class Local:
    """Runs on this machine.

    Attributes:
        workers: processes; 0 for this one.
    """

    workers: int

    def map(
        self, work: Work, shards: Sequence[RecordShard], directory: Path, identity: Mapping[str, Any], what: str
    ) -> list[dict[str, Any]]:
        """Runs a pass over all units, see `resumable_jobs.run`."""
        return resumable_jobs.run(work, shards, directory, identity, self.workers, what)

    def find(
        self, rule: rules.CleanRule, table: rules.Rows, alive: np.ndarray, scratch: Path, memory: int
    ) -> np.ndarray:
        """Applies a rule to a table, see `search.find`."""
        return search.find(rule, table, alive, scratch, memory)
