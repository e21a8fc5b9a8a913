"""The passes and rules of a cleaning job as Apache Beam transforms (extra `beam`), for its runners on clusters.

They call the same functions as the runner for one machine. Workers read the sources and write their files where the
driver does, so all of them must see the same file system.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from wenlan_jax.prepare.clean import rules, runners, search
from wenlan_jax.prepare.clean.shards import RecordShard
from wenlan_jax.util import resumable_jobs

_CHUNK = 4096
"""Rows of a table that one element of a pipeline stands for."""


@dataclasses.dataclass(frozen=True)
class _ReportedUnit:
    """Does one unit and stores its report, unless that is there already."""

    work: runners.Work
    directory: Path
    identity: dict[str, Any]
    what: str

    def __call__(self, element: tuple[int, RecordShard]) -> dict[str, Any]:
        number, shard = element
        numbered = _Numbered(self.work, number)
        return resumable_jobs.run(numbered, [shard], self.directory / self.what, self.identity, 0, f"{number:06d}")[0]


@dataclasses.dataclass(frozen=True)
class _Numbered:
    """Work on the only unit of a list, by the number it has in the whole job."""

    work: runners.Work
    number: int

    def __call__(self, _: int, shard: RecordShard) -> dict[str, Any]:
        return self.work(self.number, shard)


class DoUnits(beam.PTransform):
    """A pass: (number, shard) -> (number, report as JSON). Units that were done before are not done again."""

    def __init__(self, unit: _ReportedUnit) -> None:
        super().__init__()
        self._unit = unit

    def expand(self, pcoll: Any) -> Any:
        """Spreads the units over workers and does them."""
        unit = self._unit
        spread = pcoll | "Spread" >> beam.Reshuffle()
        return spread | "Do" >> beam.Map(lambda element: (element[0], json.dumps(unit(element), ensure_ascii=False)))


class FindAlike(beam.PTransform):
    """A rule: arrays of living positions of the table in the file `table` -> (position, first witness)."""

    def __init__(self, rule: rules.CleanRule, table: Path) -> None:
        super().__init__()
        self._rule, self._table = rule, table

    def expand(self, pcoll: Any) -> Any:
        """Groups rows by the rule's keys and has it decide within each group."""
        rule, table = self._rule, self._table
        return (
            pcoll
            | "Spread" >> beam.Reshuffle()
            | "Key" >> beam.FlatMap(lambda positions: _keyed(rule, table, positions))
            | "Group" >> beam.GroupByKey()
            | "Decide" >> beam.FlatMap(lambda group: _decide(rule, table, group[1]))
            | "First" >> beam.CombinePerKey(min)
        )


@dataclasses.dataclass(frozen=True)
class Beam:
    """Runs a job by the Beam runner that `arguments` name, such as `--runner=FlinkRunner`; none: the direct runner."""

    arguments: tuple[str, ...] = ()

    def map(
        self,
        work: runners.Work,
        shards: Sequence[RecordShard],
        directory: Path,
        identity: Mapping[str, Any],
        what: str,
    ) -> list[dict[str, Any]]:
        """Runs a pass; the reports lie in `directory`, each below the number of its unit. See `runners.Runner.map`."""
        unit = _ReportedUnit(work, directory, dict(identity), what)
        with beam.Pipeline(options=self._options()) as pipeline:
            _ = pipeline | "Units" >> beam.Create(list(enumerate(shards))) | what >> DoUnits(unit)
        return [unit(element) for element in enumerate(shards)]  # which reads the stored reports

    def find(
        self, rule: rules.CleanRule, table: rules.Rows, alive: np.ndarray, scratch: Path, memory: int
    ) -> np.ndarray:
        """Applies a rule, as `search.find`; Beam spills to disk by itself, so `memory` is not needed."""
        del memory
        if not alive.any():
            return np.zeros(0, search.FOUND)
        scratch.mkdir(parents=True, exist_ok=True)
        for stale in scratch.glob("found-*"):
            stale.unlink()
        path = _file_of(table, scratch)
        with beam.Pipeline(options=self._options()) as pipeline:
            found = pipeline | "Rows" >> beam.Create(list(_chunks(alive))) | rule.reason >> FindAlike(rule, path)
            lines = found | "Line" >> beam.Map(lambda pair: f"{pair[0]} {pair[1]}")
            _ = lines | "Write" >> beam.io.WriteToText(str(scratch / "found"))
        pairs = [line.split() for file in scratch.glob("found-*") for line in file.read_text().splitlines()]
        rows = [(int(position), int(witness)) for position, witness in pairs]
        return search.first_witness(np.array(rows, search.FOUND))

    def _options(self) -> PipelineOptions:
        return PipelineOptions(list(self.arguments))


def _file_of(table: rules.Rows, scratch: Path) -> Path:
    """A file that holds `table`, which workers can open: its own, where it is a memory map."""
    if isinstance(table, np.memmap) and table.filename is not None:
        return Path(table.filename)
    np.save(scratch / "table.npy", table)
    return scratch / "table.npy"


def _chunks(alive: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(alive), _CHUNK):
        positions = start + np.flatnonzero(alive[start : start + _CHUNK])
        if len(positions):
            yield positions


def _keyed(rule: rules.CleanRule, table: Path, positions: np.ndarray) -> Iterator[tuple[int, tuple[int, bytes]]]:
    """(key, (position, the row as bytes)): the row travels with its key, so that no group has to fetch it."""
    rows = np.asarray(np.load(table, mmap_mode="r")[positions])
    for position, row, keys in zip(positions.tolist(), rows, rule.keys(rows), strict=True):
        for key in keys.tolist():
            yield key, (position, row.tobytes())


def _decide(rule: rules.CleanRule, table: Path, group: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, int]]:
    members = sorted(group)
    if len(members) < 2:
        return
    dtype = np.load(table, mmap_mode="r").dtype
    rows = np.frombuffer(b"".join(row for _, row in members), dtype)
    positions = np.array([position for position, _ in members])
    for found in search.decided(rule, positions, rows):
        yield int(found["position"]), int(found["witness"])
