"""From table files to runs: every row with every seed as a checked configuration, equal ones once.

A run is named after the fingerprint of its whole configuration. So the same row in two tables is one run, and a row
whose configuration has changed is another run than before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wenlan_jax.config import settings
from wenlan_jax.sweep.table import Row, TableError, TableFile
from wenlan_jax.tasks import experiment
from wenlan_jax.util.errors import WenlanError, counted


class SweepError(WenlanError, ValueError):
    """Arguments of `wenlan sweep` that go together with nothing there is."""


@dataclasses.dataclass(frozen=True)
class RunPlace:
    """Where a run stands.

    Attributes:
        table: the name of the table.
        row: the name of the row.
        seed: the seed.
    """

    table: str
    row: str
    seed: int


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One training.

    Attributes:
        name: the fingerprint of its configuration.
        config: its configuration.
        base: the file that it was made from.
        overrides: what was changed, by dotted field.
        places: where it is wanted.
    """

    name: str
    config: experiment.Config
    base: Path
    overrides: Mapping[str, Any]
    places: tuple[RunPlace, ...]

    def label(self) -> str:
        """Names the run for a person, by the first place it stands in."""
        first = self.places[0]
        return f"{first.table}: {first.row}, seed {first.seed}"


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """All tables of one call.

    Attributes:
        files: the tables.
        seeds: by table.
        runs: by name, in the order in which they are started.
        names: of the run at each place.
    """

    files: tuple[TableFile, ...]
    seeds: Mapping[str, tuple[int, ...]]
    runs: Mapping[str, SweepRun]
    names: Mapping[RunPlace, str]

    def at(self, table: str, row: str, seed: int) -> SweepRun:
        """Returns the run of a row and a seed."""
        return self.runs[self.names[RunPlace(table, row, seed)]]


def make(files: Sequence[TableFile], seeds: Sequence[int] = ()) -> SweepPlan:
    """Plans every run of some tables; the first seed of all rows comes first.

    Args:
        files: the tables.
        seeds: instead of those of the tables, if given.

    Returns:
        The plan; equal runs come once.

    Raises:
        TableError: lists every fault of every row: fields that do not exist, values of a wrong type, clashes, metrics
            of splits that are not evaluated, a held-out split that is seen while training.
    """
    names = [file.name for file in files]
    faults = [f"{name}: two tables have this name; rename one file" for name in set(names) if names.count(name) > 1]
    wanted = {file.name: tuple(seeds) or file.table.seeds for file in files}
    rows: dict[tuple[str, str], experiment.Config] = {}
    for file in files:
        for row in file.table.rows:
            try:
                rows[file.name, row.name] = _checked(file, row)
            except experiment.ConfigError as error:
                faults += [f"{file.path}: row {row.name!r}: {line.strip()}" for line in _lines(error)]
    if faults:
        raise TableError(f"{counted(len(faults))} in the tables, and nothing was started:\n  " + "\n  ".join(faults))
    runs: dict[str, SweepRun] = {}
    at: dict[RunPlace, str] = {}
    for file, row, seed in _in_order(files, wanted):
        run = _run(file, row, seed, rows[file.name, row.name])
        known = runs.get(run.name)
        runs[run.name] = run if known is None else dataclasses.replace(known, places=known.places + run.places)
        at[run.places[0]] = run.name
    return SweepPlan(tuple(files), wanted, runs, at)


def chosen(planned: SweepPlan, only: Sequence[str] | None, only_run: str | None) -> list[SweepRun]:
    """Picks the runs to make.

    Args:
        planned: all runs.
        only: names of rows; None for all.
        only_run: the name of one run, in place of rows.

    Returns:
        The runs.

    Raises:
        SweepError: for a row or a run that no table has.
    """
    if only_run is not None:
        if only_run not in planned.runs:
            raise SweepError(
                f"--only-run: the tables have no run {only_run}; they or their base have changed since it was named"
            )
        return [planned.runs[only_run]]
    rows = sorted({row.name for file in planned.files for row in file.table.rows})
    for name in only or ():
        if name not in rows:
            raise SweepError(f"--only: no row {name!r}; there are {', '.join(map(repr, rows))}")
    return [run for run in planned.runs.values() if only is None or any(place.row in only for place in run.places)]


def _lines(error: experiment.ConfigError) -> list[str]:
    """The faults that an error of the configuration lists, or the one that it is."""
    lines = str(error).splitlines()
    return lines[1:] or lines


def _in_order(files: Sequence[TableFile], seeds: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[TableFile, Row, int]]:
    for turn in range(max(map(len, seeds.values()), default=0)):
        for file in files:
            for row in file.table.rows if turn < len(seeds[file.name]) else ():
                yield file, row, seeds[file.name][turn]


def _run(file: TableFile, row: Row, seed: int, config: experiment.Config) -> SweepRun:
    seeded = dataclasses.replace(config, seed=seed)
    name = experiment.fingerprint(seeded)
    return SweepRun(
        name, seeded, file.base(row), {**row.overrides, "seed": seed}, (RunPlace(file.name, row.name, seed),)
    )


def _checked(file: TableFile, row: Row) -> experiment.Config:
    """The configuration of a row, with seed 0 of its base. Raises ConfigError listing its faults."""
    config = with_overrides(experiment.load(file.base(row)), row.overrides)
    faults = list(_held_out_faults(config, file.table.metrics))
    if faults:
        raise experiment.ConfigError("\n".join(["", *faults]))
    return config


def with_overrides(config: experiment.Config, overrides: Mapping[str, Any]) -> experiment.Config:
    """Sets values of a configuration.

    Args:
        config: the configuration.
        overrides: values by dotted field.

    Returns:
        The changed configuration.

    Raises:
        ConfigError: lists unknown fields and unfit values.
    """
    known = [name for name, _, _ in experiment.fields()]
    faults = [settings.unknown_field(name, known) for name in overrides if name not in known]
    if faults:
        raise experiment.ConfigError("\n".join(["", *faults]))
    values = dataclasses.asdict(config)
    for name, value in overrides.items():
        *sections, field = name.split(".")
        section = values
        for part in sections:
            section = section[part]
        section[field] = value
    return experiment.parse(values)


def _held_out_faults(config: experiment.Config, metrics: Sequence[str]) -> Iterator[str]:
    """What would let the reported data choose anything, or leave a metric without a value."""
    shared = sorted(set(config.eval.splits) & set(config.eval.final_splits))
    if shared and config.eval.every:
        yield (
            f"eval.splits and eval.final_splits share {', '.join(shared)}: what is reported must not be looked at "
            "while training; take another split for one of them"
        )
    trained = {config.data.train_split} if not config.data.mixture else set()
    trained |= {part.split for part in config.data.mixture if part.source == config.data.source}
    yield from (
        f"eval.final_splits: {split} is trained on (data.train_split, data.mixture); report held-out data"
        for split in sorted(trained & set(config.eval.final_splits))
    )
    for metric in metrics:
        if split_of(metric, config.eval.final_splits) is None:
            yield f"metrics: {metric} is of none of eval.final_splits {config.eval.final_splits}"


def split_of(metric: str, splits: Sequence[str]) -> str | None:
    """Finds the one of `splits` that a metric such as `retrieval/test/mean_recall` is of; None if it is of none."""
    parts = metric.split("/")
    return next((split for split in splits if split in parts[1:]), None)


def curve_metric(metric: str, config: experiment.Config) -> str | None:
    """Finds the metric that stands for another over the steps, on the first of `eval.splits`.

    Args:
        metric: of the table.
        config: of its rows.

    Returns:
        The name; None where nothing is evaluated on the way.
    """
    split = split_of(metric, config.eval.final_splits)
    if not config.eval.every or not config.eval.splits:
        return None
    place = metric.split("/")
    place[place.index(str(split), 1)] = config.eval.splits[0]
    return "/".join(place)
