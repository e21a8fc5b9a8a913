"""What a run reached, as tables: retrieval with intervals beside chance, objectives and answers beside trivial guesses.

Figures are found by their names, so that those of a run half done, or of another version, are shown as far as they go.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from wenlan_jax.eval.ranks import Ranks
from wenlan_jax.run_report import elements
from wenlan_jax.sweep import statistics

_RECALL = re.compile(r"retrieval/([^/]+)/(?:(.+)/)?(text_to_image|image_to_text)/recall_at_(\d+)$")
_OBJECTIVE = re.compile(r"pretrain/([^/]+)/([^/]+)/(?:([^/]+)/)?(\w+)$")
_ANSWERS = re.compile(r"vqa/([^/]+)/([^/]+)/(\w+)$")
_SEEN = ("loss", "accuracy")
_WAYS = {"text_to_image": "text to image", "image_to_text": "image to text"}

NO_INTERVALS = "No intervals: the rank of every query, ranks_{split}.npz, is not there."
OTHER_RANKS = "No intervals: ranks_{split}.npz is not of the evaluation that gave these figures."
INTERVALS = (
    f"In brackets the interval that holds {statistics.LEVEL:.0%} of what is found when the held-out pictures are drawn "
    f"anew, each with its texts, those that share a text together, {statistics.RESAMPLES:,} times. It says nothing of "
    "other seeds."
)


@dataclasses.dataclass(frozen=True)
class Recall:
    """One recall: `part` is a language, or "" for all texts together."""

    split: str
    part: str
    way: str
    k: int
    value: float

    @property
    def name(self) -> str:
        """As in result.json."""
        part = f"{self.part}/" if self.part else ""
        return f"retrieval/{self.split}/{part}{self.way}/recall_at_{self.k}"


def parts(figures: Mapping[str, float], known: Mapping[str, Ranks]) -> list[str]:
    """All tables that the figures give, as elements of the page; `known`: the ranks of each split."""
    return [*_retrieval(figures, known), *_objectives(figures), *_answers(figures)]


def headline(figures: Mapping[str, float], known: Mapping[str, Ranks]) -> str:
    """The first recall of the first split in a sentence, or "" where there is none."""
    for found in recalls(figures):
        if found.way == "text_to_image" and not found.part:
            share = _share(found, known)
            return f"{found.split}: {_WAYS[found.way]} recall@{found.k} {share}"
    return ""


def recalls(figures: Mapping[str, float]) -> list[Recall]:
    """Every recall among the figures, by split, part, way and k."""
    matches = ((match, value) for name, value in figures.items() if (match := _RECALL.match(name)))
    found = [Recall(match[1], match[2] or "", match[3], int(match[4]), value) for match, value in matches]
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
    """Two lines a language. Texts are searched among those of their language, pictures among all."""
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
    return statistics.hits(known[one.split], one.name, (one.k,)) if one.split in known else None


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
    matches = [match for name in figures if (match := _OBJECTIVE.match(name))]
    headers = ["objective", "loss", "of a constant guess", "accuracy", "of a constant guess"]
    for split in dict.fromkeys(match[1] for match in matches):
        of_split = [match for match in matches if match[1] == split]
        rows = []
        for name in dict.fromkeys(match[2] for match in of_split):
            at = f"pretrain/{split}/{name}"
            rows.append([name, *_cells(figures, at, "loss", "constant_loss", "accuracy", "constant_accuracy")])
        yield elements.table(headers, rows, caption=f"Objectives, {split}")
        parts = dict.fromkeys((match[2], match[3]) for match in of_split if match[3])
        if parts:
            said = [[" ".join(part), *_cells(figures, f"pretrain/{split}/{'/'.join(part)}", *_SEEN)] for part in parts]
            yield elements.folded(f"{split}, by language", elements.table(["", *_SEEN], said))


def _cells(figures: Mapping[str, float], at: str, *names: str) -> list[str]:
    """Metrics of an objective: accuracies in percent, losses in nats or as they are."""
    forms = ("{:.1%}" if name.endswith("accuracy") else "{:.4f}" for name in names)
    return [_number(figures, f"{at}/{name}", form) for name, form in zip(names, forms, strict=True)]


def _answers(figures: Mapping[str, float]) -> Iterator[str]:
    """Accuracy of answers by language, beside guesses that look at no picture."""
    matches = [match for name in figures if (match := _ANSWERS.match(name))]
    for split in dict.fromkeys(match[1] for match in matches):
        of_split = [match for match in matches if match[1] == split]
        columns = [name for name in dict.fromkeys(match[3] for match in of_split) if name != "questions"]
        rows = []
        for language in dict.fromkeys(match[2] for match in of_split):
            at = f"vqa/{split}/{language}/"
            shares = [_number(figures, at + name, "{:.1%}") for name in columns]
            rows.append([language, _number(figures, f"{at}questions", "{:.0f}"), *shares])
        names = [name.replace("_", " ") for name in columns]
        yield elements.table(["language", "questions", *names], rows, caption=f"Answers, {split}")


def _number(figures: Mapping[str, float], name: str, form: str) -> str:
    return form.format(figures[name]) if name in figures else ""
