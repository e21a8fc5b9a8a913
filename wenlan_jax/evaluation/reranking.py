"""The cascade: the best candidates of a fast model, put in order by a slow one.

A two-tower model ranks everything; a model that sees image and text together scores the first k candidates of
each query alone. They change places among themselves, and what stands below keeps its place. So recall at k and
beyond is that of the first model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64

from wenlan_jax.evaluation import graded_ranking, true_pairs
from wenlan_jax.evaluation.true_pairs import Links, LinksLike
from wenlan_jax.util.errors import WenlanError

Orders = Int64[np.ndarray, "queries candidates"]
Pairs = Int64[np.ndarray, " pairs"]
Scorer = Callable[[Pairs, Pairs], Float32[np.ndarray, " pairs"]]
"""(query of each pair, candidate of each pair) -> scores, larger is better. It returns when they are on the host."""

Clock = Callable[[], float]
"""The time in seconds, such as `time.perf_counter`."""


class RerankingError(WenlanError, ValueError):
    """Candidates or scores that cannot be put in order."""


@dataclasses.dataclass(frozen=True)
class Reranked:
    """The new orders, and what they cost.

    Attributes:
        orders: rows of candidates, best first.
        pairs: how many pairs were scored.
        seconds: of each query. A batch that several queries share is divided among them by their pairs; what a query
            takes that is served alone, only batches of one query (`batch_size=top_k`) show.
    """

    orders: Orders
    pairs: int
    seconds: Float64[np.ndarray, " queries"]


def _checked(orders: Int[np.ndarray, "queries candidates"], top_k: int) -> Orders:
    found = np.asarray(orders)
    if found.ndim != 2 or not found.size or not np.issubdtype(found.dtype, np.integer):
        raise RerankingError(f"orders: whole numbers (queries, candidates) are needed, got {found.dtype}{found.shape}.")
    ordered = np.sort(found, axis=1)
    wrong = np.flatnonzero((ordered[:, 0] < 0) | (ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    if len(wrong):
        raise RerankingError(f"orders: query {wrong[0]} has a candidate twice, or a negative one.")
    if top_k < 0:
        raise RerankingError(f"top_k must not be negative, got {top_k}.")
    return found.astype(np.int64)


def _batches(pairs: int, batch_size: int) -> Iterator[slice]:
    if batch_size < 1:
        raise RerankingError(f"batch_size must be at least 1, got {batch_size}.")
    return (slice(start, min(start + batch_size, pairs)) for start in range(0, pairs, batch_size))


def score_candidates(
    candidates: Int64[np.ndarray, "queries k"], scorer: Scorer, batch_size: int, clock: Clock
) -> tuple[Float32[np.ndarray, "queries k"], Float64[np.ndarray, " queries"]]:
    """Scores the candidates of each query, in batches that may span queries.

    Args:
        candidates: rows of candidates.
        scorer: scores pairs.
        batch_size: pairs of every batch but the last.
        clock: the time in seconds.

    Returns:
        The scores, and the seconds of each query.

    Raises:
        RerankingError: for scores that are not finite, or of another number.
    """
    count, k = candidates.shape
    queries, rows = np.repeat(np.arange(count), k), candidates.reshape(-1)
    scores, seconds = np.empty(len(rows), np.float32), np.zeros(count)
    for part in _batches(len(rows), batch_size):
        start = clock()
        found = np.asarray(scorer(queries[part], rows[part]), np.float32)
        spent = clock() - start
        if found.shape != (part.stop - part.start,) or not np.isfinite(found).all():
            raise RerankingError(
                f"The scorer gave {found.shape} scores for {part.stop - part.start} pairs, or some not finite."
            )
        scores[part] = found
        np.add.at(seconds, queries[part], spent / len(found))
    return scores.reshape(count, k), seconds


def reorder(orders: Orders, scores: Float32[np.ndarray, "queries k"]) -> Orders:
    """Sorts the first candidates of each query by falling score; equal scores keep their order.

    Args:
        orders: rows of candidates, best first.
        scores: of the first k of them.

    Returns:
        The new orders; what stands below the first k keeps its place.
    """
    k = scores.shape[1]
    best = np.argsort(-scores, axis=1, kind="stable")
    return np.concatenate([np.take_along_axis(orders[:, :k], best, axis=1), orders[:, k:]], axis=1)


def rerank(
    orders: Int[np.ndarray, "queries candidates"], top_k: int, scorer: Scorer, batch_size: int, clock: Clock
) -> Reranked:
    """Has a scorer put the first candidates of each query in order.

    Only queries x top_k pairs are scored.

    Args:
        orders: rows of candidates, best first: all of them, or the best that an index gave.
        top_k: how many are put in order; cut to the number of candidates. At 0 nothing changes.
        scorer: scores pairs.
        batch_size: pairs scored at once.
        clock: the time in seconds.

    Returns:
        The new orders, and what they cost.

    Raises:
        RerankingError: for candidates or scores that cannot be put in order.
    """
    known = _checked(orders, top_k)
    first = known[:, :top_k]
    scores, seconds = score_candidates(first, scorer, batch_size, clock)
    return Reranked(reorder(known, scores), first.size, seconds)


def text_judgements(links: LinksLike) -> list[dict[int, int]]:
    """Makes judgements of true pairs for texts as queries: grade 1 for all images of each text.

    Args:
        links: the true pairs.

    Returns:
        By text, the grades of images by row.
    """
    known = links if isinstance(links, Links) else true_pairs.known(links, len(links), int(np.max(links)) + 1)
    return _grade_one(known.text, known.image, known.texts)


def image_judgements(links: LinksLike, images: int) -> list[dict[int, int]]:
    """Makes judgements of true pairs for images as queries: grade 1 for all texts of each image.

    Args:
        links: the true pairs.
        images: the number of images.

    Returns:
        By image, the grades of texts by row.
    """
    known = links if isinstance(links, Links) else true_pairs.known(links, len(links), images)
    return _grade_one(known.image, known.text, images)


def _grade_one(queries: Pairs, candidates: Pairs, count: int) -> list[dict[int, int]]:
    found: list[dict[int, int]] = [{} for _ in range(count)]
    for query, candidate in zip(queries.tolist(), candidates.tolist(), strict=True):
        found[query][candidate] = 1
    return found


@dataclasses.dataclass(frozen=True)
class CascadeRow:
    """Quality and cost of the cascade at one depth.

    Attributes:
        top_k: how many candidates were re-ranked; 0 is the first model alone.
        recall: by k, the share of queries with a relevant candidate among the first k.
        ndcg: see `graded_ranking.GradedProtocol`.
        bound: the recall at `top_k` of the first model, which recall cannot exceed below it; None at depth 0.
        pairs_per_query: how many pairs were scored.
        seconds_per_query: how long it took.
    """

    top_k: int
    recall: Mapping[int, float]
    ndcg: float
    bound: float | None
    pairs_per_query: float
    seconds_per_query: float


def _recall(grades: Int[np.ndarray, "queries candidates"], k: int, relevant_from: int) -> float:
    return float(np.mean((grades[:, :k] >= relevant_from).any(axis=1)))


def _ndcg(
    grades: Int[np.ndarray, "queries candidates"],
    judgements: Sequence[Mapping[int, int]],
    protocol: graded_ranking.GradedProtocol,
) -> float:
    found = [
        graded_ranking.ndcg(line, list(pool.values()), protocol) for line, pool in zip(grades, judgements, strict=True)
    ]
    counted = [value for value in found if value is not None]
    if not counted:
        raise RerankingError("No query has a relevant candidate, and such queries are skipped.")
    return float(np.mean(counted))


def _graded(orders: Orders, judgements: Sequence[Mapping[int, int]]) -> Int64[np.ndarray, "queries candidates"]:
    if len(judgements) != len(orders):
        raise RerankingError(f"{len(orders)} queries have {len(judgements)} judgements.")
    lines = [[pool.get(row, 0) for row in line] for line, pool in zip(orders.tolist(), judgements, strict=True)]
    return np.array(lines, np.int64)


def against_depth(
    orders: Int[np.ndarray, "queries candidates"],
    depths: Sequence[int],
    scorer: Scorer,
    judgements: Sequence[Mapping[int, int]],
    protocol: graded_ranking.GradedProtocol,
    ks: Sequence[int],
    batch_size: int,
    clock: Clock,
) -> list[CascadeRow]:
    """Measures the first model alone, then the cascade at each depth, each run and timed on its own.

    Args:
        orders: rows of candidates, best first, as the first model has them.
        depths: how many candidates are re-ranked.
        scorer: scores pairs.
        judgements: the grades of each query's candidates by row; one not named has grade 0, a true pair 1.
        protocol: of NDCG, and which grades are relevant.
        ks: of recall.
        batch_size: pairs scored at once.
        clock: the time in seconds.

    Returns:
        One row a depth, that of depth 0 first.
    """
    known, rows = _checked(orders, 0), []
    base = _graded(known, judgements)
    for depth in [0, *depths]:
        found = rerank(known, depth, scorer, batch_size, clock)
        grades = _graded(found.orders, judgements)
        rows.append(
            CascadeRow(
                top_k=depth,
                recall={k: _recall(grades, k, protocol.relevant_from) for k in ks},
                ndcg=_ndcg(grades, judgements, protocol),
                bound=_recall(base, depth, protocol.relevant_from) if depth else None,
                pairs_per_query=found.pairs / len(known),
                seconds_per_query=float(found.seconds.mean()),
            )
        )
    return rows


def table(rows: Sequence[CascadeRow], ndcg_at: int) -> str:
    """Writes a line a depth: recall, NDCG, the bound that the candidates set, pairs and milliseconds a query.

    Args:
        rows: what `against_depth` measured.
        ndcg_at: the k of NDCG, for the title.

    Returns:
        The table.
    """
    ks = list(rows[0].recall)
    lines = [
        f"{'re-ranked':<12}"
        + "".join(f"{f'recall@{k}':>11}" for k in ks)
        + f"{f'NDCG@{ndcg_at}':>10}{'bound':>9}{'pairs':>8}{'ms/query':>11}"
    ]
    for row in rows:
        name = f"best {row.top_k}" if row.top_k else "none"
        recalls = "".join(f"{row.recall[k]:>11.1%}" for k in ks)
        bound = "" if row.bound is None else f"{row.bound:.1%}"
        cost = f"{row.pairs_per_query:>8.0f}{1e3 * row.seconds_per_query:>11.2f}"
        lines.append(f"{name:<12}{recalls}{row.ndcg:>10.4f}{bound:>9}{cost}")
    return "\n".join(lines)
