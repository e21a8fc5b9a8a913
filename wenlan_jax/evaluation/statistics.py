"""What a careful reader wants beside a mean: the deviation over seeds, and whether two rows differ.

Two rows answer the same held-out queries, so they are compared query by query. The interval comes from a paired
bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, percentile interval) over images, not over
texts: the texts of one image are no independent queries. Images that share a text are drawn together. It says how
far the difference hangs on the choice of the held-out images; how far it hangs on the seed is the deviation's to say.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np
import scipy.stats
from jaxtyping import Float64, Int64

from wenlan_jax.evaluation.metric_names import FOLDS, RETRIEVAL, parse
from wenlan_jax.evaluation.query_ranks import Ranks
from wenlan_jax.util.errors import WenlanError

RESAMPLES = 10_000
"""Of the bootstrap."""

LEVEL = 0.95
"""Of the interval."""

_SEED = 0
_BLOCK = 2**22
"""Draws of all terms held in memory at once."""


class NotPairedError(WenlanError, ValueError):
    """Two rows that cannot be compared query by query."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A difference and the interval around it.

    Attributes:
        difference: the difference.
        low: the lower end of the interval.
        high: its upper end.
    """

    difference: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)
class Hits:
    """A metric as a mean over terms of hits per query, image by image. `mean_recall` has six terms, a recall one.

    Attributes:
        hits: of each image in each term; images that share texts are taken together, see `Links.groups`.
        queries: the number of queries of each image in each term.
    """

    hits: Float64[np.ndarray, "images terms"]
    queries: Float64[np.ndarray, "images terms"]

    def value(self) -> float:
        """Computes the metric itself."""
        return float(np.mean(self.hits.sum(axis=0) / self.queries.sum(axis=0)))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Computes mean and sample standard deviation.

    Args:
        values: of the seeds.

    Returns:
        The mean, and the deviation (divided by n - 1); NaN where there are too few values.
    """
    if not values:
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def hits(ranks: Ranks, metric: str, ks: Sequence[int]) -> Hits | None:
    """Finds what a metric is a mean of.

    Args:
        ranks: of all queries.
        metric: its name in result.json.
        ks: of the evaluation.

    Returns:
        The hits of each image; None where ranks do not tell.
    """
    name = parse(metric)
    if name is None or name.protocol != RETRIEVAL or FOLDS in name.part:
        return None
    if not name.part and name.metric == "mean_recall":
        terms = [_term(ranks, way, None, k) for way in ("image_to_text", "text_to_image") for k in ks]
        return Hits(*(np.stack(part, axis=1) for part in zip(*terms, strict=True)))
    if not (name.direction and name.k) or len(name.group) > 1:
        return None
    if name.group and name.direction == "image_to_text":
        return None  # texts of one language compete among themselves, which is another ranking
    of, queries = _term(ranks, name.direction, name.group[0] if name.group else None, name.k)
    return Hits(of[:, None], queries[:, None])


def _term(
    ranks: Ranks, way: str, language: str | None, k: int
) -> tuple[Float64[np.ndarray, " groups"], Float64[np.ndarray, " groups"]]:
    """Hits and queries of each group of images in one direction, within one language if that is given."""
    links = ranks.links
    if way == "image_to_text":
        asked, found, group = ranks.image_to_text > 0, ranks.image_to_text <= k, links.groups
    else:
        asked = np.ones(links.texts, bool) if language is None else ranks.language == _stored(language)
        first = links.image[np.searchsorted(links.text, np.arange(links.texts))]
        found, group = ranks.text_to_image <= k, links.groups[first]
    size = int(links.groups.max()) + 1
    return _count(group[asked & found], size), _count(group[asked], size)


def _stored(language: str) -> str:
    """A language as ranks name it; metrics call the nameless one unknown."""
    return "" if language == "unknown" else language


def _count(groups: Int64[np.ndarray, " any"], size: int) -> Float64[np.ndarray, " groups"]:
    return np.bincount(groups, minlength=size).astype(np.float64)


def compare(row: Sequence[Hits], baseline: Sequence[Hits], resamples: int = RESAMPLES) -> Interval:
    """Subtracts a baseline from a row, both averaged over their seeds, with a bootstrap interval over images.

    The generator is fixed: the same runs give the same figures.

    Args:
        row: the hits of each seed.
        baseline: the same of the baseline.
        resamples: of the bootstrap.

    Returns:
        The difference and its interval.

    Raises:
        NotPairedError: if the runs were not evaluated on the same queries (see `Ranks.same_queries`).
    """
    queries = baseline[0].queries
    if any(not np.array_equal(queries, one.queries) for one in [*row, *baseline]):
        raise NotPairedError("the runs were not evaluated on the same queries")
    # The difference image by image before the sum, so that equal rows give exactly 0.
    differences = np.mean([one.hits for one in row], axis=0) - np.mean([one.hits for one in baseline], axis=0)
    asked = queries.sum(axis=1) > 0
    return bootstrap(differences[asked], queries[asked], resamples)


def bootstrap(
    sums: Float64[np.ndarray, "images terms"], queries: Float64[np.ndarray, "images terms"], resamples: int
) -> Interval:
    """Computes a mean over terms and its percentile interval over resampled images.

    Args:
        sums: of each image in each term.
        queries: the number of queries of each image in each term.
        resamples: how often images are drawn.

    Returns:
        The mean over terms of `sums` per query, and its interval.

    Raises:
        NotPairedError: for fewer than two images.
    """
    if len(sums) < 2:
        raise NotPairedError(f"{len(sums)} images, or groups of images that share texts, are too few to draw from")
    found = scipy.stats.bootstrap(
        (*sums.T, *queries.T),
        _mean_ratio,
        n_resamples=resamples,
        batch=max(1, _BLOCK // sums.size),
        vectorized=True,
        paired=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return Interval(float(_mean_ratio(*sums.T, *queries.T)), float(found.low), float(found.high))


def _mean_ratio(*columns: np.ndarray, axis: int = -1) -> Float64[np.ndarray, "*resamples"]:
    """The mean over terms of sums over queries; the first half of the columns are the terms' sums."""
    sums, queries = np.split(np.stack([column.sum(axis=axis) for column in columns]), 2)
    return np.asarray(np.mean(sums / queries, axis=0))
