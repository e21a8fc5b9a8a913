"""The figure of a table: the first metric row by row, and its course over training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wenlan_jax.evaluation import statistics as stats
from wenlan_jax.sweep.plan import curve_metric
from wenlan_jax.sweep.report import is_share, title_of
from wenlan_jax.sweep.summary import RowSummary
from wenlan_jax.sweep.table import TableFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(file: TableFile, lines: Sequence[RowSummary], out: Path) -> Path:
    """Draws OUT/<table>.png: rows with deviation and single runs, and the mean validation curve of each row.

    Args:
        file: the table.
        lines: its rows.
        out: the folder.

    Returns:
        The file.
    """
    from matplotlib.figure import Figure  # slow to import, and the command line and data workers come by here

    figure = Figure(figsize=(12, max(4.0, 1.5 + 0.45 * len(lines))), layout="constrained")
    left, right = figure.subplots(1, 2)
    _rows(left, file, lines)
    _curves(right, file, lines)
    figure.suptitle(file.table.title, fontsize=11, x=0.01, ha="left")
    path = out / f"{file.name}.png"
    figure.savefig(path, dpi=130)
    return path


def _rows(axes: Axes, file: TableFile, lines: Sequence[RowSummary]) -> None:
    metric = file.table.metrics[0]
    scale = 100 if is_share(metric) else 1
    for at, line in enumerate(lines):
        values = [scale * value for value in line.values(metric)]
        if not values:
            axes.text(0.01, at, line.state(), transform=axes.get_yaxis_transform(), va="center", fontsize=8, alpha=0.6)
            continue
        mean, deviation = stats.mean_and_deviation(values)
        error = deviation if len(values) > 1 else None
        axes.errorbar(mean, at, xerr=error, fmt="s", color=f"C{at % 10}", capsize=4, markersize=6)
        axes.plot(values, [at + 0.22] * len(values), "o", color=f"C{at % 10}", alpha=0.5, markersize=4)
        if line.row.name == file.table.baseline:
            axes.axvline(mean, color="grey", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(lines)), [line.row.name for line in lines], fontsize=8)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    _finish(axes, title_of(metric) + (", %" if is_share(metric) else "") + "; ± over seeds, points: runs")


def _curves(axes: Axes, file: TableFile, lines: Sequence[RowSummary]) -> None:
    metric = file.table.metrics[0]
    scale = 100 if is_share(metric) else 1
    for at, line in enumerate(lines):
        if line.curve:
            values = [scale * value for value in line.curve.values()]
            dash = "-" if at < 10 else "--"  # there are ten colours
            color, pairs = f"C{at % 10}", list(line.curve)
            axes.plot(pairs, values, dash, label=line.row.name, color=color, marker="o", markersize=3)
    name = curve_metric(metric, lines[0].runs[0].folder.run.config)
    axes.set_xlabel("pairs seen")
    if axes.has_data():
        axes.legend(fontsize=7, frameon=False)
    else:
        reason = "no run is done" if name else "eval.every is 0: nothing was measured while training"
        axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", alpha=0.5)
    _finish(axes, f"{title_of(name)} while training, mean over seeds" if name else "course of training")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
