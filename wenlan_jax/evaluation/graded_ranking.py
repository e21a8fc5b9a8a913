"""Ranking against graded judgements: NDCG and mean average precision.

The papers judge the best 30 results of each query by three annotators on 7 levels and average NDCG and MAP over
queries. What they leave open is a setting: the gain of a grade, the cutoff, the ideal list, from which grade a
result is relevant, and what a query without anything relevant counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int

from wenlan_jax.util.errors import WenlanError

Grades = Int[np.ndarray, " results"]
AnyGrades = Int[np.ndarray, " grades"]
Judgements = Mapping[Any, int]
"""The grades, from 0, of what was judged for one query, by its name or row; what was not judged has grade 0."""


class RankingError(WenlanError, ValueError):
    """A ranking or judgements that no figure can be computed from."""


@dataclasses.dataclass(frozen=True)
class GradedProtocol:
    """The settings of graded evaluation.

    Attributes:
        k: results of a query that count.
        gain: of a grade g: g (`linear`) or 2**g - 1 (`exp`).
        ideal: the list that has NDCG 1: the best order of the results a system gave (`judged-list`), or of all that was
            judged for the query (`pool`). By the former a system that finds only poor results, in order, is perfect.
        relevant_from: the lowest grade of a relevant result, for MAP.
        empty: a query without any gain, or for MAP without any relevant result, counts 0 (`zero`) or not (`skip`).

    Raises:
        RankingError: for other values.
    """

    k: int
    gain: Literal["linear", "exp"]
    ideal: Literal["judged-list", "pool"]
    relevant_from: int
    empty: Literal["zero", "skip"]

    def __post_init__(self) -> None:
        allowed = {"gain": ("linear", "exp"), "ideal": ("judged-list", "pool"), "empty": ("zero", "skip")}
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise RankingError(f"{name}: {getattr(self, name)!r} is none of {', '.join(choices)}.")
        if self.k < 1 or self.relevant_from < 1:
            raise RankingError(f"k and relevant_from start at 1, got {self.k} and {self.relevant_from}.")


def _grades(values: Sequence[int] | Grades) -> Grades:
    grades = np.asarray(values)
    if grades.ndim != 1 or (grades.size and not np.issubdtype(grades.dtype, np.integer)) or (grades < 0).any():
        raise RankingError(f"Grades are whole numbers from 0 in one line, got {grades.dtype}{grades.shape}.")
    return grades.astype(np.int64)


def _gains(grades: Grades, protocol: GradedProtocol) -> Float64[np.ndarray, " results"]:
    return np.exp2(grades) - 1 if protocol.gain == "exp" else grades.astype(np.float64)


def discounted_gain(ranked: Sequence[int] | Grades, protocol: GradedProtocol) -> float:
    """Computes DCG at k: the sum of gain / log2(1 + rank).

    Args:
        ranked: the grades of the results, best first.
        protocol: the gain, and how many results count.

    Returns:
        The discounted gain.
    """
    gains = _gains(_grades(ranked)[: protocol.k], protocol)
    return float(gains @ (1 / np.log2(np.arange(2, len(gains) + 2))))


def _ideal(ranked: Grades, pool: Sequence[int] | AnyGrades, protocol: GradedProtocol) -> AnyGrades:
    """All grades that the best list is drawn from, best first."""
    return np.sort(ranked if protocol.ideal == "judged-list" else _grades(pool))[::-1]


def ndcg(ranked: Sequence[int] | Grades, pool: Sequence[int] | AnyGrades, protocol: GradedProtocol) -> float | None:
    """Computes NDCG at k.

    Args:
        ranked: the grades of the results, best first.
        pool: all grades judged for the query, in any order.
        protocol: the settings.

    Returns:
        NDCG in [0, 1]; None for a query that is to be skipped.

    Raises:
        RankingError: for grades that are no whole numbers from 0, or if the pool lacks some of the results.
    """
    grades = _grades(ranked)
    best = discounted_gain(_ideal(grades, pool, protocol), protocol)
    if not best:
        return 0.0 if protocol.empty == "zero" else None
    found = discounted_gain(grades, protocol)
    if found > best * (1 + 1e-9):
        raise RankingError("The results have more gain than the best of the pool: the pool lacks some of them.")
    return min(1.0, found / best)


def average_precision(
    ranked: Sequence[int] | Grades, pool: Sequence[int] | AnyGrades, protocol: GradedProtocol
) -> float | None:
    """Computes average precision at k.

    It is the precision at the rank of each relevant result, summed and divided by the number of relevant results of the
    ideal list, at most k, so that a list that could not be better has 1.

    Args:
        ranked: the grades of the results, best first.
        pool: all grades judged for the query, in any order.
        protocol: the settings.

    Returns:
        Average precision in [0, 1]; None for a query that is to be skipped.
    """
    grades = _grades(ranked)
    possible = min(int(np.count_nonzero(_ideal(grades, pool, protocol) >= protocol.relevant_from)), protocol.k)
    if not possible:
        return 0.0 if protocol.empty == "zero" else None
    relevant = grades[: protocol.k] >= protocol.relevant_from
    precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
    return float(precision[relevant].sum() / possible)


def graded(query: Hashable, ranked: Sequence[Hashable], judged: Judgements) -> Grades:
    """Looks up the grades of a query's results.

    Args:
        query: its name, for the message.
        ranked: its results, best first.
        judged: the grades of what was judged; other results have grade 0.

    Returns:
        The grades, best result first.

    Raises:
        RankingError: for a result that is ranked twice.
    """
    if len(set(ranked)) != len(ranked):
        raise RankingError(f"query {query!r}: a result is ranked twice; it would be counted twice.")
    return np.array([judged.get(result, 0) for result in ranked], np.int64)


def evaluate(
    rankings: Mapping[Any, Sequence[Any]],
    judgements: Mapping[Any, Judgements],
    protocol: GradedProtocol,
) -> dict[str, float]:
    """Computes the mean NDCG and MAP of a system over all judged queries.

    Args:
        rankings: the results for each query, best first. A judged query without results has grade 0 throughout.
        judgements: the grades of each judged query.
        protocol: the settings.

    Returns:
        `ndcg` and `map`; `queries` that were judged, `ndcg_queries` and `map_queries` that the means are over; and
        `judged`, the share of the first k results that were judged at all.

    Raises:
        RankingError: if no query was judged or none counts.
    """
    if not judgements:
        raise RankingError("No query was judged.")
    found: dict[str, list[float]] = {"ndcg": [], "map": []}
    judged = shown = 0
    for query, pool in judgements.items():
        ranked = rankings.get(query, ())
        grades, all_grades = graded(query, ranked, pool), list(pool.values())
        for name, figure in (("ndcg", ndcg), ("map", average_precision)):
            if (value := figure(grades, all_grades, protocol)) is not None:
                found[name].append(value)
        shown += len(ranked[: protocol.k])
        judged += sum(result in pool for result in ranked[: protocol.k])
    return {
        **{name: _mean(name, values) for name, values in found.items()},
        **{f"{name}_queries": float(len(values)) for name, values in found.items()},
        "queries": float(len(judgements)),
        "judged": judged / shown if shown else 0.0,
    }


def _mean(name: str, values: Sequence[float]) -> float:
    if not values:
        raise RankingError(f"{name}: no query has anything relevant, and such queries are skipped.")
    return math.fsum(values) / len(values)
