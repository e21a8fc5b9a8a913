"""A table as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.evaluation import metric_names
from wenlan_jax.evaluation import statistics as stats
from wenlan_jax.sweep.folder import FAILED
from wenlan_jax.sweep.summary import DEVICES, Comparison, RowSummary, RunSummary
from wenlan_jax.sweep.table import TableFile
from wenlan_jax.util import atomic_files

NOTHING = "–"
"""In place of a figure that there is none of; the state says why."""


def title_of(metric: str) -> str:
    """Writes a metric's name for a person.

    `retrieval/test/text_to_image/recall_at_1` is text to image recall@1 (test).
    """
    name = metric_names.parse(metric)
    return metric if name is None else name.title


def is_share(metric: str) -> bool:
    """Says whether a metric is a share, shown in percent."""
    name = metric_names.parse(metric)
    return name is not None and name.is_share


def markdown(file: TableFile, lines: Sequence[RowSummary]) -> str:
    """Writes the whole page: what is tested, the table, how to read it, every run, the logs of failed ones."""
    blocks = [f"# {file.table.title}", file.statement, f"Baseline: {file.table.baseline}. Source: `{file.path}`."]
    blocks += [_grid(_head(file), [_cells(file, line) for line in lines]), _reading(file, lines)]
    blocks += [f"![{file.table.title}]({file.name}.png)", "## Runs", _runs(file, lines)]
    failed = [one for line in lines for one in line.runs if one.state.kind == FAILED]
    if failed:
        blocks += ["## Failed", *dict.fromkeys(_failure(one) for one in failed)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def plain(file: TableFile, lines: Sequence[RowSummary]) -> str:
    """Writes the table alone, for the terminal."""
    return f"{file.table.title}\n{_grid(_head(file), [_cells(file, line) for line in lines])}"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns aligned, so that it reads as it stands."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    widths = [max(len(row[at]) for row in cells) for at in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _head(file: TableFile) -> list[str]:
    metrics = [title_of(metric) + (", %" if is_share(metric) else "") for metric in file.table.metrics]
    cost = ["pairs", "steps", "pairs/s", "accelerator-hours"]
    return ["row", *metrics, f"difference [{stats.LEVEL:.0%}]", "seeds", *cost, "state"]


def _cells(file: TableFile, line: RowSummary) -> list[str]:
    first = file.table.metrics[0]
    return [
        line.row.name,
        *(_measured(line.values(metric), metric) for metric in file.table.metrics),
        _difference(line.comparison, first),
        f"{len(line.done)} of {len(line.runs)}",
        _number(line.mean("train/pairs"), ",.0f"),
        _number(line.mean("train/steps"), ",.0f"),
        _number(line.pairs_per_second(), ".4g"),
        _number(line.hours(), ".3g"),
        line.state(),
    ]


def _number(value: float, form: str) -> str:
    return NOTHING if math.isnan(value) else format(value, form)


def _measured(values: Sequence[float], metric: str) -> str:
    """Mean ± deviation, in percent for shares."""
    mean, deviation = stats.mean_and_deviation(values)
    if math.isnan(mean):
        return NOTHING
    scale, form = (100, ".1f") if is_share(metric) else (1, ".4g")
    return format(scale * mean, form) + ("" if math.isnan(deviation) else f" ± {format(scale * deviation, form)}")


def _difference(comparison: Comparison | str | None, metric: str) -> str:
    """The difference with its interval and its deviation over seeds, in points of percent for shares."""
    if comparison is None:
        return "baseline"
    if isinstance(comparison, str):
        return NOTHING
    scale, form = (100, ".1f") if is_share(metric) else (1, ".4g")
    interval = comparison.interval
    middle, low, high = (format(scale * v, f"+{form}") for v in (interval.difference, interval.low, interval.high))
    spread = "" if math.isnan(comparison.deviation) else f" ± {format(scale * comparison.deviation, form)}"
    return f"{middle}{spread} [{low}, {high}]"


def _reading(file: TableFile, lines: Sequence[RowSummary]) -> str:
    """How the figures came about, with the reason of every figure that is not there."""
    found = [line.comparison for line in lines if isinstance(line.comparison, Comparison)]
    notes = [
        "Mean ± sample standard deviation over the seeds that are done; a seed changes initialisation and data order."
    ]
    if found:
        images = " or ".join(f"{number:,}" for number in sorted({one.images for one in found}))
        notes.append(
            f"Difference: {title_of(file.table.metrics[0])} minus that of the baseline, over the seeds that both have, "
            "with its deviation over seeds; in brackets the interval of a paired bootstrap over the "
            f"{images} held-out images, of which those that share a text count as one ({stats.RESAMPLES:,} "
            "resamples), which holds for these trained models: what another seed would change comes on top."
        )
    notes.append("pairs/s: without compilation, evaluation and checkpoints, with whatever ran beside it.")
    if any(line.done and math.isnan(line.hours()) for line in lines):
        notes.append(f"Accelerator-hours are left out where result.json has no {DEVICES}.")
    missing = {line.row.name: line.comparison for line in lines if isinstance(line.comparison, str)}
    notes += [f"No difference for {name}: {reason}." for name, reason in missing.items()]
    return "\n".join(f"- {note}" for note in notes)


def _runs(file: TableFile, lines: Sequence[RowSummary]) -> str:
    metric = file.table.metrics[0]
    rows = []
    for line in lines:
        for one in line.runs:
            value = [one.result[metric]] if one.result is not None and metric in one.result else []
            rows.append(
                [
                    line.row.name,
                    str(one.seed),
                    _measured(value, metric),
                    one.state.text(),
                    f"`{one.folder.path.parent.name}/{one.folder.path.name}`",
                ]
            )
    return _grid(["row", "seed", title_of(metric), "state", "directory"], rows)


def _failure(one: RunSummary) -> str:
    tail = "\n".join(f"    {text}" for text in one.folder.log_tail().splitlines())
    return f"{one.folder.run.label()}: {one.state.detail}\n\n{tail}"


def table_csv(file: TableFile, lines: Sequence[RowSummary]) -> str:
    """Writes the table as CSV: a line a row, with raw figures; what there is none of is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    metrics = [f"{metric}{suffix}" for metric in file.table.metrics for suffix in ("", " deviation")]
    difference = ["difference", "low", "high", "difference deviation", "seeds compared", "images compared"]
    cost = ["pairs", "steps", "pairs per second", "accelerator hours"]
    writer.writerow(["row", *metrics, *difference, "seeds done", "seeds", *cost, "state"])
    for line in lines:
        figures = [part for metric in file.table.metrics for part in stats.mean_and_deviation(line.values(metric))]
        figures += _compared(line.comparison)
        costs = [line.mean("train/pairs"), line.mean("train/steps"), line.pairs_per_second(), line.hours()]
        writer.writerow(
            [line.row.name, *map(_raw, figures), len(line.done), len(line.runs), *map(_raw, costs), line.state()]
        )
    return out.getvalue()


def _compared(comparison: Comparison | str | None) -> list[float]:
    if not isinstance(comparison, Comparison):
        return [math.nan] * 6
    interval = comparison.interval
    return [
        interval.difference,
        interval.low,
        interval.high,
        comparison.deviation,
        comparison.seeds,
        comparison.images,
    ]


def _raw(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def write(file: TableFile, lines: Sequence[RowSummary], out: Path) -> list[Path]:
    """Writes OUT/<table>.md and .csv.

    Args:
        file: the table.
        lines: its rows.
        out: the folder.

    Returns:
        The files.
    """
    pages = {out / f"{file.name}.md": markdown(file, lines), out / f"{file.name}.csv": table_csv(file, lines)}
    for path, text in pages.items():
        atomic_files.write(path, text.encode("utf-8", "backslashreplace"), shared=True)
    return list(pages)
