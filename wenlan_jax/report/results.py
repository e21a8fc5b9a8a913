"""What a run reached, as tables: retrieval with intervals beside chance, objectives and answers beside trivial guesses.

Figures are found by their names, so that those of a run half done, or of another version, are shown as far as they go.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from wenlan_jax.evaluation import statistics
from wenlan_jax.evaluation.metric_names import PRETRAIN, RETRIEVAL, VQA, MetricName, parse
from wenlan_jax.evaluation.query_ranks import Ranks
from wenlan_jax.report import elements

_SEEN = ("loss", "accuracy")
_WAYS = {"text_to_image": "text to image", "image_to_text": "image to text"}

NO_INTERVALS = "No intervals: the rank of every query, ranks_{split}.npz, is not there."
OTHER_RANKS = "No intervals: ranks_{split}.npz is not of the evaluation that gave these figures."
INTERVALS = (
    f"In brackets the interval that holds {statistics.LEVEL:.0%} of what is found when the held-out images are drawn "
    f"anew, each with its texts, those that share a text together, {statistics.RESAMPLES:,} times. It says nothing of "
    "other seeds."
)


class Recall(NamedTuple):
    """One recall.

    Attributes:
        name: its name, taken apart.
        value: in [0, 1].
    """

    name: MetricName
    value: float

    @property
    def split(self) -> str:
        """The split of the data."""
        return self.name.split

    @property
    def part(self) -> str:
        """The language, or "" for all texts together."""
        return "/".join(self.name.group)

    @property
    def way(self) -> str:
        """The direction."""
        return self.name.direction

    @property
    def k(self) -> int:
        """How many of the best count."""
        return self.name.k


def parts(figures: Mapping[str, float], known: Mapping[str, Ranks]) -> list[str]:
    """Writes all tables that the figures give.

    Args:
        figures: by name.
        known: the ranks of each split.

    Returns:
        Elements of the page.
    """
    return [*_retrieval(figures, known), *_objectives(figures), *_answers(figures), *_others(figures)]


def _named(figures: Mapping[str, float], protocol: str) -> Iterator[tuple[MetricName, float]]:
    """The figures of an evaluation with their names taken apart."""
    for text, value in figures.items():
        name = parse(text)
        if name is not None and name.protocol == protocol:
            yield name, value


def headline(figures: Mapping[str, float], known: Mapping[str, Ranks]) -> str:
    """Writes the first recall of the first split in a sentence, or "" where there is none."""
    for found in recalls(figures):
        if found.way == "text_to_image" and not found.part:
            share = _share(found, known)
            return f"{found.split}: {_WAYS[found.way]} recall@{found.k} {share}"
    return ""


def recalls(figures: Mapping[str, float]) -> list[Recall]:
    """Lists every recall among the figures, by split, part, way and k."""
    found = [Recall(name, value) for name, value in _named(figures, RETRIEVAL) if name.direction and name.k]
    return sorted(found, key=lambda one: (one.split, one.part, one.way != "text_to_image", one.k))


def _retrieval(figures: Mapping[str, float], known: Mapping[str, Ranks]) -> Iterator[str]:
    found = recalls(figures)
    for split in dict.fromkeys(one.split for one in found):
        of_split = [one for one in found if one.split == split]
        if whole := [one for one in of_split if not one.part]:
            yield _ways(whole, figures, known)
        yield _provenance(of_split, known)
        if by_part := [one for one in of_split if one.part]:
            yield elements.folded(f"{split}, by language", _languages(by_part, figures, known))


def _ways(found: Sequence[Recall], figures: Mapping[str, float], known: Mapping[str, Ranks]) -> str:
    """Recall both ways of one split, each above chance."""
    rows = []
    for way in dict.fromkeys(one.way for one in found):
        of_way = [one for one in found if one.way == way]
        at = f"retrieval/{of_way[0].split}/{way}"
        counts = [_number(figures, f"{at}/{name}", "{:.0f}") for name in ("queries", "candidates")]
        ranks = [_number(figures, f"{at}/{name}", "{:.1f}") for name in ("median_rank", "mean_rank")]
        rows.append([_WAYS[way], *counts, *(_share(one, known) for one in of_way), *ranks])
        chance = [_number(figures, f"{at}/chance_recall_at_{one.k}", "{:.1%}") for one in of_way]
        rows.append(["by chance", "", "", *chance, "", ""])
    ks = sorted({one.k for one in found})
    headers = ["", "queries", "of", *(f"recall@{k}" for k in ks), "median rank", "mean rank"]
    return elements.table(headers, rows, caption=f"Retrieval, {found[0].split}")


def _languages(found: Sequence[Recall], figures: Mapping[str, float], known: Mapping[str, Ranks]) -> str:
    """Two lines a language. Texts are searched among those of their language, images among all."""
    columns = sorted({(one.way, one.k) for one in found}, reverse=True, key=lambda column: (column[0], -column[1]))
    rows = []
    for part in dict.fromkeys(one.part for one in found):
        cells = {(one.way, one.k): _share(one, known) for one in found if one.part == part}
        rows.append([part, *(cells.get(column, "") for column in columns)])
        at = f"retrieval/{found[0].split}/{part}"
        counts = {_number(figures, f"{at}/{way}/candidates", "{:,.0f}"): way for way, _ in columns}
        among = " and ".join(filter(None, counts))
        chance = [_number(figures, f"{at}/{way}/chance_recall_at_{k}", "{:.1%}") for way, k in columns]
        if any(chance):
            rows.append([f"by chance, among {among}", *chance])
    return elements.table(["", *(f"{_WAYS[way]} @{k}" for way, k in columns)], rows)


def _share(one: Recall, known: Mapping[str, Ranks]) -> str:
    """A recall, with its interval where the ranks of its queries are known."""
    interval = _interval(one, known)
    text = f"{one.value:.1%}"
    return text if interval is None else f"{text} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _interval(one: Recall, known: Mapping[str, Ranks]) -> statistics.Interval | None:
    """The bootstrap interval of a recall; None where no ranks tell it or draw from."""
    hits = _hits(one, known)
    if hits is None or not _agree(one, hits):
        return None
    asked = hits.queries.sum(axis=1) > 0
    if np.count_nonzero(asked) < 2:
        return None
    return statistics.bootstrap(hits.hits[asked], hits.queries[asked], statistics.RESAMPLES)


def _hits(one: Recall, known: Mapping[str, Ranks]) -> statistics.Hits | None:
    return statistics.hits(known[one.split], str(one.name), (one.k,)) if one.split in known else None


def _agree(one: Recall, hits: statistics.Hits) -> bool:
    return math.isclose(hits.value(), one.value, abs_tol=1e-9)


def _provenance(found: Sequence[Recall], known: Mapping[str, Ranks]) -> str:
    """How the intervals of a split were made, or why there are none."""
    split = found[0].split
    if split not in known:
        return elements.note(NO_INTERVALS.format(split=split))
    agree = all((hits := _hits(one, known)) is None or _agree(one, hits) for one in found)
    return elements.note(INTERVALS) if agree else elements.remark(OTHER_RANKS.format(split=split))


def _objectives(figures: Mapping[str, float]) -> Iterator[str]:
    """Loss and accuracy of the single tower's objectives beside those of the best constant guess."""
    names = [name for name, _ in _named(figures, PRETRAIN) if name.part]
    headers = ["objective", "loss", "of a constant guess", "accuracy", "of a constant guess"]
    for split in dict.fromkeys(name.split for name in names):
        of_split = [name.part for name in names if name.split == split]
        rows = []
        for objective in dict.fromkeys(part[0] for part in of_split):
            at = f"{PRETRAIN}/{split}/{objective}"
            rows.append([objective, *_cells(figures, at, "loss", "constant_loss", "accuracy", "constant_accuracy")])
        yield elements.table(headers, rows, caption=f"Objectives, {split}")
        parts = dict.fromkeys(part for part in of_split if len(part) > 1)
        if parts:
            said = [
                [" ".join(part), *_cells(figures, f"{PRETRAIN}/{split}/{'/'.join(part)}", *_SEEN)] for part in parts
            ]
            yield elements.folded(f"{split}, by language", elements.table(["", *_SEEN], said))


def _cells(figures: Mapping[str, float], at: str, *names: str) -> list[str]:
    """Metrics of an objective: accuracies in percent, losses in nats or as they are."""
    forms = ("{:.1%}" if name.endswith("accuracy") else "{:.4f}" for name in names)
    return [_number(figures, f"{at}/{name}", form) for name, form in zip(names, forms, strict=True)]


def _answers(figures: Mapping[str, float]) -> Iterator[str]:
    """Accuracy of answers by language, beside guesses that look at no image."""
    yield from _tables(figures, VQA, "Answers", "language", count="questions")


def _others(figures: Mapping[str, float]) -> Iterator[str]:
    """The figures of every other evaluation, one table a split."""
    names = (parse(name) for name in figures)
    for protocol in dict.fromkeys(name.protocol for name in names if name is not None):
        if protocol not in (RETRIEVAL, PRETRAIN, VQA):
            yield from _tables(figures, protocol, protocol.replace("_", " "), "")


def _tables(
    figures: Mapping[str, float], protocol: str, title: str, heading: str, count: str | None = None
) -> Iterator[str]:
    """Of an evaluation, one table a split: a row a part, a column a metric; `count` is a number that comes first."""
    found = dict(_named(figures, protocol))
    for split in dict.fromkeys(name.split for name in found):
        of_split = {name: value for name, value in found.items() if name.split == split}
        columns = list(dict.fromkeys(name.metric for name in of_split if name.metric != count))
        columns = ([count] if count else []) + columns
        rows = []
        for part in dict.fromkeys(name.part for name in of_split):
            names = [MetricName(protocol, split, part, metric) for metric in columns]
            rows.append([" ".join(part), *(name.text(found[name]) if name in found else "" for name in names)])
        labels = [metric.replace("_", " ") for metric in columns]
        yield elements.table([heading, *labels], rows, caption=f"{title}, {split}")


def _number(figures: Mapping[str, float], name: str, form: str) -> str:
    return form.format(figures[name]) if name in figures else ""
