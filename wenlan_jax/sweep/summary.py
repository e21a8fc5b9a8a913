"""From the runs that are there to the lines of a table: mean and deviation over seeds, comparison, cost, state."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from wenlan_jax.evaluation import query_ranks
from wenlan_jax.evaluation import statistics as stats
from wenlan_jax.monitoring import curves, time_ledger
from wenlan_jax.sweep.folder import DONE, RunFolder, RunState, RunStore
from wenlan_jax.sweep.plan import SweepPlan, curve_metric, split_of
from wenlan_jax.sweep.table import Row, TableFile
from wenlan_jax.util import json_files

DEVICES = "train/devices"
"""In result.json: the devices that the run computed on."""


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """One run of a row.

    Attributes:
        seed: the seed.
        folder: its directory.
        state: where it stands.
        result: the figures of result.json; None until it is done.
    """

    seed: int
    folder: RunFolder
    state: RunState
    result: Mapping[str, float] | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The first metric of a row against the baseline.

    Attributes:
        interval: of the difference over held-out images.
        deviation: of the difference over seeds; NaN for one.
        seeds: that both rows have.
        images: held-out images that were compared.
    """

    interval: stats.Interval
    deviation: float
    seeds: int
    images: int


@dataclasses.dataclass(frozen=True)
class RowSummary:
    """A row of the table with what is there of it.

    Attributes:
        row: the row.
        runs: one a seed.
        comparison: None for the baseline, or a text that says why there is none.
        curve: the validation metric by pairs seen.
    """

    row: Row
    runs: Sequence[RunSummary]
    comparison: Comparison | str | None
    curve: Mapping[int, float]

    @property
    def done(self) -> list[RunSummary]:
        """The runs that have a result."""
        return [one for one in self.runs if one.result is not None]

    def values(self, metric: str) -> list[float]:
        """Returns a metric of every run that is done and has it."""
        return [one.result[metric] for one in self.done if one.result is not None and metric in one.result]

    def mean(self, metric: str) -> float:
        """Returns the mean of a metric over the runs that are done; NaN without one."""
        return stats.mean_and_deviation(self.values(metric))[0]

    def pairs_per_second(self) -> float:
        """Returns pairs per second of stepping and of waiting for data, the mean over runs; NaN without one."""
        rates = []
        for result in (one.result for one in self.done if one.result is not None):
            seconds = result.get("seconds/steps", 0.0) + result.get("seconds/wait_for_data", 0.0)
            rates.append(result.get("train/pairs", math.nan) / seconds if seconds else math.nan)
        return statistics.fmean(rates) if rates else math.nan

    def hours(self) -> float:
        """Returns the accelerator-hours of all runs that are done: time times devices; NaN where unknown."""
        if not self.done:
            return math.nan
        return sum(_held_seconds(one) * (one.result or {}).get(DEVICES, math.nan) for one in self.done) / 3600

    def state(self) -> str:
        """Says how many runs are done, and where the others stand."""
        found = Counter(one.state.kind for one in self.runs)
        if set(found) == {DONE}:
            return DONE
        return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))


def lines(file: TableFile, plan: SweepPlan, store: RunStore) -> list[RowSummary]:
    """Collects what is there of every row of a table now.

    Args:
        file: the table.
        plan: its runs.
        store: where they are.

    Returns:
        One line a row.
    """
    runs = {row.name: _runs(file, row, plan, store) for row in file.table.rows}
    baseline = runs[file.table.baseline]
    return [
        RowSummary(
            row,
            runs[row.name],
            None if row.name == file.table.baseline else _compare(runs[row.name], baseline, file.table.metrics[0]),
            _curve(runs[row.name], file.table.metrics[0]),
        )
        for row in file.table.rows
    ]


def _runs(file: TableFile, row: Row, plan: SweepPlan, store: RunStore) -> list[RunSummary]:
    found = []
    for seed in plan.seeds[file.name]:
        folder = store.folder(plan.at(file.name, row.name, seed))
        result = folder.result()
        found.append(RunSummary(seed, folder, RunState(DONE) if result is not None else folder.state(), result))
    return found


def _compare(row: Sequence[RunSummary], baseline: Sequence[RunSummary], metric: str) -> Comparison | str:
    """The paired comparison over the seeds that both have, or why there is none."""
    of_row, of_baseline = ({one.seed: one for one in runs if one.result is not None} for runs in (row, baseline))
    shared = sorted(of_row.keys() & of_baseline.keys())
    if not shared:
        return "no seed of both rows is done"
    try:
        one, two = ([_hits(runs[seed], metric) for seed in shared] for runs in (of_row, of_baseline))
        _check_queries([of_row[seed] for seed in shared] + [of_baseline[seed] for seed in shared], metric)
        interval = stats.compare(one, two)
    except (query_ranks.RanksError, stats.NotPairedError) as error:
        return str(error)
    by_seed = [a.value() - b.value() for a, b in zip(one, two, strict=True)]
    images = int((one[0].queries.sum(axis=1) > 0).sum())
    return Comparison(interval, stats.mean_and_deviation(by_seed)[1], len(shared), images)


def _ranks(one: RunSummary, metric: str) -> query_ranks.Ranks:
    split = split_of(metric, one.folder.run.config.eval.final_splits)
    return query_ranks.read(one.folder.path, str(split))


def _hits(one: RunSummary, metric: str) -> stats.Hits:
    hits = stats.hits(_ranks(one, metric), metric, one.folder.run.config.eval.ks)
    if hits is None:
        raise stats.NotPairedError(f"{metric} is not computed from ranks that are kept")
    return hits


def _check_queries(runs: Sequence[RunSummary], metric: str) -> None:
    first = _ranks(runs[0], metric)
    for other in runs[1:]:
        if not first.same_queries(_ranks(other, metric)):
            raise stats.NotPairedError(f"{runs[0].folder.path} and {other.folder.path} have different held-out queries")


def _held_seconds(one: RunSummary) -> float:
    """Seconds in which a process of the run held the devices, over all its starts."""
    snapshots = time_ledger.read(one.folder.path / "ledger.jsonl")
    starts = (list(group) for _, group in itertools.groupby(snapshots, key=lambda snapshot: snapshot.start))
    return sum(start[-1].total for start in starts)


def _curve(runs: Sequence[RunSummary], metric: str) -> dict[int, float]:
    """The validation metric by pairs seen, the mean over the finished runs at the steps that all of them have."""
    found = []
    for one in runs:
        name = curve_metric(metric, one.folder.run.config)
        if one.result is not None and name is not None:
            size = one.folder.run.config.train.batch_size
            try:
                series = curves.read_metrics(one.folder.path / "metrics.jsonl").get(name, {})
            except json_files.NoteError:  # without its curve, the run has its figures all the same
                continue
            found.append({step * size: value for step, value in series.items()})
    shared = set.intersection(*map(set, found)) if found else set()
    return {pairs: statistics.fmean(series[pairs] for series in found) for pairs in sorted(shared)}
