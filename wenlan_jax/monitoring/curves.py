"""The curves of a training run, drawn from the lines of its `metrics.jsonl`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wenlan_jax.evaluation import metric_names
from wenlan_jax.evaluation.metric_names import MetricName
from wenlan_jax.monitoring.metrics_file import read as read_lines
from wenlan_jax.util.errors import WenlanError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = dict[int, float]
"""Values by step, in the order of the steps."""


class CurvesError(WenlanError, ValueError):
    """A metrics file that holds nothing to draw."""


def read_metrics(path: Path) -> dict[str, Series]:
    """Reads the numeric fields of a metrics file.

    Args:
        path: a `metrics.jsonl`.

    Returns:
        By name, values by step; of equal steps the later line counts.
    """
    return by_name(read_lines(path))


def by_name(rows: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """Makes curves of the lines of a metrics file, as `read_metrics` does."""
    found: dict[str, Series] = {}
    for row in rows:
        step = row["step"]
        for name, value in row.items():
            if name != "step" and value is not None:
                found.setdefault(name, {})[step] = float(value)
    return {name: dict(sorted(series.items())) for name, series in found.items()}


def _draw(axes: Axes, series: Series, label: str, **style: Any) -> None:
    style = {"marker": "o" if len(series) < 30 else None, "markersize": 3 if len(series) > 1 else 7, **style}
    if len(series) == 1:
        style["marker"] = "o"  # a line of one point would not be seen
    axes.plot(list(series), list(series.values()), label=label, **style)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.has_data():
        axes.legend(fontsize=7, frameon=False)
    else:
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", alpha=0.5)


def _loss(axes: Axes, metrics: dict[str, Series]) -> None:
    if "train/loss" in metrics:
        _draw(axes, metrics["train/loss"], "loss")
    if "train/loss_reference" in metrics:
        reference = metrics["train/loss_reference"]
        _draw(axes, reference, "loss of a uniform guess", linestyle="--", marker=None)
    _finish(axes, "loss (nats)")


def _learning_rate(axes: Axes, metrics: dict[str, Series]) -> None:
    if "train/learning_rate" in metrics:
        _draw(axes, metrics["train/learning_rate"], "learning rate", marker=None)
    _finish(axes, "learning rate")


def _results(metrics: dict[str, Series]) -> list[Callable[[Axes], None]]:
    """A drawer for each protocol of evaluation that has figures; one that says so where none has."""
    parsed = [name for text in sorted(metrics) if (name := metric_names.parse(text)) is not None and not name.is_guess]
    protocols: dict[str, list[MetricName]] = {}
    for name in parsed:
        protocols.setdefault(name.protocol, []).append(name)
    return [functools.partial(_protocol, metrics=metrics, names=names) for names in protocols.values() or [[]]]


def _protocol(axes: Axes, metrics: dict[str, Series], names: Sequence[MetricName]) -> None:
    """What a protocol found: recall, or shares of right answers, or whatever it gives for a whole split."""
    recalls = [name for name in names if name.k and name.direction and not name.group]
    if recalls and all(len(metrics[str(name)]) == 1 for name in recalls):
        _recall_once(axes, metrics, recalls)
    elif recalls:
        _recall(axes, metrics, recalls)
    elif accuracies := [name for name in names if name.metric == "accuracy" and _is_whole(name, names)]:
        _lines(axes, metrics, accuracies, "accuracy")
        axes.set_ylim(0, 1)
    else:
        whole = [name for name in names if not name.part]
        _lines(axes, metrics, whole, whole[0].metric.replace("_", " ") if whole else "results")


def _is_whole(name: MetricName, names: Sequence[MetricName]) -> bool:
    """Whether a figure is over all languages: of no part or one, and of `all` where there is that."""
    siblings = {other.part for other in names if other[:2] == name[:2]}
    return len(name.part) < 2 and ((metric_names.ALL,) not in siblings or name.part in ((), (metric_names.ALL,)))


def _recall(axes: Axes, metrics: dict[str, Series], found: Sequence[MetricName]) -> None:
    styles = {"text_to_image": "-", "image_to_text": "--"}
    cuts = sorted({name.k for name in found})
    for name in found:
        colour = f"C{cuts.index(name.k) % 10}"
        label = f"{name.split}, {name.direction.replace('_', ' ')}, recall@{name.k}"
        _draw(axes, metrics[str(name)], label, color=colour, linestyle=styles[name.direction])
        for guess in _guesses(name, metrics):
            if name.direction == "text_to_image":
                style = {"color": colour, "linestyle": ":", "marker": None, "alpha": 0.6}
                _draw(axes, metrics[str(guess)], f"{name.split}, chance@{name.k}", **style)
    axes.set_ylim(0, 1)
    _finish(axes, "retrieval")


def _guesses(name: MetricName, metrics: Mapping[str, Series]) -> list[MetricName]:
    return [guess for guess in name.guesses if str(guess) in metrics]


def _lines(axes: Axes, metrics: dict[str, Series], found: Sequence[MetricName], title: str) -> None:
    """Figures with those of guesses that saw nothing."""
    number = 0
    for name in found:
        what = ", ".join((name.protocol, name.split, *name.part))
        _draw(axes, metrics[str(name)], f"{what}, {name.metric.replace('_', ' ')}", color=f"C{number % 10}")
        for guess in _guesses(name, metrics):
            number += 1
            style = {"color": f"C{number % 10}", "linestyle": ":", "marker": None, "alpha": 0.6}
            _draw(axes, metrics[str(guess)], f"{what}, {guess.metric.replace('_', ' ')}", **style)
        number += 1
    _finish(axes, title)


def _recall_once(axes: Axes, metrics: dict[str, Series], found: Sequence[MetricName]) -> None:
    """Recall of a run that was evaluated once: a bar each, with chance as a mark, instead of a lonely point."""
    labels = []
    for place, name in enumerate(sorted(found, key=lambda one: (one.split, one.direction != "text_to_image", one.k))):
        (value,) = metrics[str(name)].values()
        labels.append(f"{name.split}, {name.direction.replace('_', ' ')} @{name.k}")
        axes.barh(place, value, color="C0" if name.direction == "text_to_image" else "C1", height=0.6)
        axes.text(value + 0.01, place, f"{value:.1%}", va="center", fontsize=7)
        for guess in _guesses(name, metrics):
            axes.plot(list(metrics[str(guess)].values())[:1], [place], marker="|", color="black", markersize=12)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_title("retrieval recall after the last step (mark: by chance)", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _speed(axes: Axes, metrics: dict[str, Series]) -> None:
    if "train/pairs_per_second" in metrics:
        _draw(axes, metrics["train/pairs_per_second"], "pairs per second", marker=None)
    axes.set_ylim(bottom=0)
    if "train/data_wait_share" in metrics:
        share = axes.twinx()
        _draw(share, metrics["train/data_wait_share"], "share of time waiting for data", color="C1", marker=None)
        share.set_ylim(0, 1)
        share.spines[["top"]].set_visible(False)
        share.legend(fontsize=7, frameon=False, loc="lower right")
    _finish(axes, "speed")


def plot_curves(metrics_jsonl: Path, out: Path) -> None:
    """Draws loss, learning rate, the results of each protocol, and speed over the steps of a run.

    A curve whose field was not logged is left out.

    Args:
        metrics_jsonl: the metrics of the run.
        out: the file to write: PNG, PDF or SVG.

    Raises:
        CurvesError: when there is no curve at all.
    """
    metrics = read_metrics(metrics_jsonl)
    if not metrics:
        raise CurvesError(f"{metrics_jsonl}: no line with a step and a number; has the run logged yet?")
    from matplotlib import rc_context  # slow to import, and the command line and data workers come by here

    out.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"text.parse_math": False}):  # names of splits may hold a $
        figure_of(metrics).savefig(out, dpi=130)


def figure_of(metrics: dict[str, Series]) -> Figure:
    """Draws curves as `plot_curves` does.

    Args:
        metrics: values by step, by name.

    Returns:
        A figure with a panel for the loss, the learning rate, the speed, and each protocol of evaluation.
    """
    from matplotlib.figure import Figure

    loss, rate, speed = (functools.partial(draw, metrics=metrics) for draw in (_loss, _learning_rate, _speed))
    panels: list[Callable[[Axes], None]] = [loss, *_results(metrics), rate, speed]
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(11, 3.5 * rows), layout="constrained")
    places = iter(figure.subplots(rows, 2).flat)
    for draw, place in zip(panels, places, strict=False):
        draw(place)
    for unused in places:
        unused.set_axis_off()
    return figure
