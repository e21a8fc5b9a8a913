"""The picture of a training run, from the lines of its `metrics.jsonl`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wenlan_jax.errors import WenlanError
from wenlan_jax.metrics import read as read_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = dict[int, float]
"""Values by step, in the order of the steps."""

_RECALL = re.compile(r"(?:^|.*/)retrieval/([^/]+)/(text_to_image|image_to_text)/recall_at_(\d+)$")

_ACCURACY = re.compile(r"([a-z]+/[^/]+/(?:all|itm|mlm|mrc))/accuracy$")
_GUESSES = ("majority", "question_alone", "constant_accuracy")
"""Names beside an accuracy of what is right without the model."""


class CurvesError(WenlanError, ValueError):
    """A metrics file that holds nothing to draw."""


def read_metrics(path: Path) -> dict[str, Series]:
    """The numeric fields of a metrics file by name, each a map from step to value; of equal steps the later counts."""
    return by_name(read_lines(path))


def by_name(rows: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """See `read_metrics`, of the lines as they were read."""
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


def _recall(axes: Axes, metrics: dict[str, Series]) -> None:
    directions = {"text_to_image": "-", "image_to_text": "--"}
    found = [(name, match) for name in sorted(metrics) if (match := _RECALL.match(name))]
    if not found and any(_ACCURACY.match(name) for name in metrics):
        _accuracy(axes, metrics)
        return
    if found and all(len(metrics[name]) == 1 for name, _ in found):
        _recall_once(axes, metrics, found)
        return
    cuts = sorted({int(match[3]) for _, match in found})
    for name, match in found:
        split, direction, k = match.groups()
        colour = f"C{cuts.index(int(k)) % 10}"
        label = f"{split}, {direction.replace('_', ' ')}, recall@{k}"
        _draw(axes, metrics[name], label, color=colour, linestyle=directions[direction])
        chance = metrics.get(name.replace("/recall_at_", "/chance_recall_at_"))
        if chance and direction == "text_to_image":
            _draw(axes, chance, f"{split}, chance@{k}", color=colour, linestyle=":", marker=None, alpha=0.6)
    axes.set_ylim(0, 1)
    _finish(axes, "retrieval")


def _accuracy(axes: Axes, metrics: dict[str, Series]) -> None:
    """Of a run that ranks nothing: shares of right answers, over all languages, with the best constant guess."""
    found = [(name, match) for name in sorted(metrics) if (match := _ACCURACY.match(name))]
    for place, (name, match) in enumerate(found):
        what, first = match[1].replace("/", ", "), place * (1 + len(_GUESSES))
        _draw(axes, metrics[name], f"{what}, accuracy", color=f"C{first % 10}")
        for number, guess in enumerate(_GUESSES, first + 1):
            if (constant := metrics.get(f"{match[1]}/{guess}")) is not None:
                style = {"color": f"C{number % 10}", "linestyle": ":", "marker": None, "alpha": 0.6}
                _draw(axes, constant, f"{what}, {guess.replace('_', ' ')}", **style)
    axes.set_ylim(0, 1)
    _finish(axes, "accuracy")


def _recall_once(axes: Axes, metrics: dict[str, Series], found: Sequence[tuple[str, re.Match[str]]]) -> None:
    """Recall of a run that was evaluated once: a bar each, with chance as a mark, instead of a lonely point."""
    found = sorted(found, key=lambda one: (one[1][1], one[1][2] != "text_to_image", int(one[1][3])))
    labels = []
    for place, (name, match) in enumerate(found):
        (value,) = metrics[name].values()
        labels.append(f"{match[1]}, {match[2].replace('_', ' ')} @{match[3]}")
        axes.barh(place, value, color="C0" if match[2] == "text_to_image" else "C1", height=0.6)
        axes.text(value + 0.01, place, f"{value:.1%}", va="center", fontsize=7)
        if chance := metrics.get(name.replace("/recall_at_", "/chance_recall_at_")):
            axes.plot(list(chance.values())[:1], [place], marker="|", color="black", markersize=12)
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
    """Draws loss, learning rate, recall and speed over the steps of a run into `out` (PNG, PDF or SVG).

    A curve whose field was not logged is left out. Raises `CurvesError` when there is no curve at all.
    """
    metrics = read_metrics(metrics_jsonl)
    if not metrics:
        raise CurvesError(f"{metrics_jsonl}: no line with a step and a number; has the run logged yet?")
    from matplotlib import rc_context  # slow to import, and the command line and data workers come by here
    from matplotlib.figure import Figure

    out.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"text.parse_math": False}):  # names of splits may hold a $
        figure = Figure(figsize=(11, 7), layout="constrained")
        axes = figure.subplots(2, 2)
        for draw, place in zip((_loss, _recall, _learning_rate, _speed), axes.flat, strict=True):
            draw(place, metrics)
        figure.savefig(out, dpi=130)
