"""The cascade on a split, both ways of retrieval: candidates by two towers, re-ranked by scores of pairs, measured.

Ties count against the models, as in `retrieval.py`: a truth stands below the false candidates that score as high. So
the two towers alone have the recall here that `wenlan eval` gives them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int64

from wenlan_jax.evaluation import graded_ranking, reranking, retrieval
from wenlan_jax.evaluation.reranking import CascadeRow, Orders, Pairs
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks.two_tower.embedded_split import Embedded
from wenlan_jax.util.progress_line import ProgressLine

TEXT_TO_IMAGE, IMAGE_TO_TEXT = "text_to_image", "image_to_text"

PROTOCOL = graded_ranking.GradedProtocol(k=10, gain="linear", ideal="pool", relevant_from=1, empty="zero")
"""NDCG at 10; a pair that belongs together has grade 1."""

BLOCK = 2**24
"""Scores of two towers that are held at once."""

PairScores = Callable[[Pairs, Pairs], Float32[np.ndarray, " pairs"]]
"""(row of each pair's text, row of its image) -> scores, on the host."""


@dataclasses.dataclass(frozen=True)
class RetrievalWay:
    """One way of retrieval on a split.

    Attributes:
        name: `text_to_image` or `image_to_text`.
        queries: the rows of the queries among the texts or images of the split; an image without a text is none.
        languages: of the queries, where they are texts.
        candidates: how many there are.
        orders: rows of the best of them for each query, by the two towers.
        judgements: see `reranking.against_depth`.
    """

    name: str
    queries: Int64[np.ndarray, " queries"]
    languages: Sequence[str]
    candidates: int
    orders: Orders
    judgements: Sequence[Mapping[int, int]]

    @property
    def title(self) -> str:
        """The name for a person."""
        return self.name.replace("_", " ")

    def sides(self, queries: Pairs, rows: Pairs) -> tuple[Pairs, Pairs]:
        """Splits pairs of query and candidate into text and image.

        Args:
            queries: the number of each pair's query.
            rows: the row of each pair's candidate.

        Returns:
            The rows of the texts, and of the images.
        """
        chosen = self.queries[queries]
        return (chosen, rows) if self.name == TEXT_TO_IMAGE else (rows, chosen)

    def part(self, chosen: Int64[np.ndarray, " part"]) -> RetrievalWay:
        """Narrows this way to some of its queries, given by their numbers."""
        return dataclasses.replace(
            self,
            queries=self.queries[chosen],
            languages=[self.languages[number] for number in chosen] if self.languages else (),
            orders=self.orders[chosen],
            judgements=[self.judgements[number] for number in chosen],
        )


def ways(embedded: Embedded, depth: int) -> tuple[RetrievalWay, RetrievalWay]:
    """Makes both ways of retrieval on a split.

    Args:
        embedded: the split, embedded by the two towers.
        depth: how many of the best candidates of each query are kept.

    Returns:
        Text to image, and image to text.
    """
    links = embedded.links
    of_texts, of_images = reranking.text_judgements(links), reranking.image_judgements(links, links.images)
    with_text = np.flatnonzero(links.texts_of_image)
    asked = [of_images[row] for row in with_text]
    return (
        RetrievalWay(
            name=TEXT_TO_IMAGE,
            queries=np.arange(links.texts),
            languages=[text.text.language for text in embedded.texts],
            candidates=links.images,
            orders=best(embedded.text_embeddings, embedded.image_embeddings, of_texts, depth),
            judgements=of_texts,
        ),
        RetrievalWay(
            name=IMAGE_TO_TEXT,
            queries=with_text,
            languages=(),
            candidates=links.texts,
            orders=best(embedded.image_embeddings[with_text], embedded.text_embeddings, asked, depth),
            judgements=asked,
        ),
    )


def best(
    queries: Float32[np.ndarray, "queries dim"],
    candidates: Float32[np.ndarray, "candidates dim"],
    judgements: Sequence[Mapping[int, int]],
    depth: int,
) -> Int64[np.ndarray, "queries best"]:
    """Finds the best candidates of each query by dot product; ties count against the truths, else they go by row.

    Args:
        queries: embeddings.
        candidates: embeddings.
        judgements: the true candidates of each query, by row.
        depth: how many.

    Returns:
        Rows of candidates, best first.
    """
    orders = np.empty((len(queries), min(depth, len(candidates))), np.int64)
    largest = np.linalg.norm(candidates, axis=1).max()
    rows = max(1, BLOCK // len(candidates))
    for start in range(0, len(queries), rows):
        part = queries[start : start + rows]
        scores = part @ candidates.T
        ties = retrieval.TIE * np.linalg.norm(part, axis=1) * largest
        for line, pool, tie in zip(scores, judgements[start : start + rows], ties, strict=True):
            truths = list(pool)
            line[truths] = np.nextafter(line[truths] - np.float32(tie), np.float32(-np.inf))
        orders[start : start + rows] = np.argsort(-scores, axis=1, kind="stable")[:, : orders.shape[1]]
    return orders


class Rescorer:
    """Scores the pairs of a way; ties count against the truths. It remembers the scores, and says how far it is.

    Args:
        way: the way of retrieval.
        depth: how many candidates of each query may be scored.
        score: scores pairs of texts and images.
        pairs: how many will be asked for in all, for progress lines.
    """

    def __init__(self, way: RetrievalWay, depth: int, score: PairScores, pairs: int) -> None:
        self._way, self._score, self._pairs = way, score, pairs
        self._keys = np.sort(self._key(np.arange(len(way.orders))[:, None], way.orders[:, :depth]).reshape(-1))
        self._scores = np.full(len(self._keys), np.nan, np.float32)
        self._done, self._progress = 0, ProgressLine()

    def __call__(self, queries: Pairs, rows: Pairs) -> Float32[np.ndarray, " pairs"]:
        """See `reranking.Scorer`."""
        found = self._score(*self._way.sides(queries, rows))
        pools = [self._way.judgements[query] for query in queries.tolist()]
        truths = np.array([row in pool for row, pool in zip(rows.tolist(), pools, strict=True)])
        found = found - np.float32(retrieval.TIE) * np.abs(found).max() * truths
        self._scores[self._places(queries, rows)] = found
        self._done += len(found)
        if self._progress.due():
            speed = self._done / self._progress.seconds
            say(f"re-ranking, {self._way.title}: {self._done:,} of {self._pairs:,} pairs, {speed:.0f}/s")
        return found

    def of(self, chosen: Int64[np.ndarray, " part"]) -> reranking.Scorer:
        """Returns the remembered scores, as the scorer of the queries `chosen`, whose numbers begin at 0 there."""
        return lambda queries, rows: self._again(chosen[queries], rows)

    def matrix(self, depth: int) -> Float32[np.ndarray, "queries depth"]:
        """Returns the remembered scores of the first `depth` candidates of each query."""
        rows = self._way.orders[:, :depth]
        queries = np.repeat(np.arange(len(rows)), rows.shape[1])
        return self._again(queries, rows.reshape(-1)).reshape(rows.shape)

    def _again(self, queries: Pairs, rows: Pairs) -> Float32[np.ndarray, " pairs"]:
        return self._scores[self._places(queries, rows)]

    def _key(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """One number for each pair of numbers."""
        return queries * self._way.candidates + rows

    def _places(self, queries: Pairs, rows: Pairs) -> Pairs:
        return np.searchsorted(self._keys, self._key(queries, rows))


@dataclasses.dataclass(frozen=True)
class MeasuredWay:
    """A way at depth 0 and at the wanted ones: all its queries, and those of each language where they are texts.

    Attributes:
        way: the way of retrieval.
        rows: one a depth.
        by_language: the same of each language; their seconds are those of reading scores again, and mean nothing.
        scores: of the single tower, for the candidates of `way.orders` down to the deepest.
    """

    way: RetrievalWay
    rows: list[CascadeRow]
    by_language: dict[str, list[CascadeRow]]
    scores: Float32[np.ndarray, "queries depth"]

    def figures(self) -> dict[str, float]:
        """Returns the figures as `<way>/top_<k>/<name>`, with a language before the way where there are several."""
        found = _figures(self.way.name, self.rows)
        found |= {
            f"{self.way.name}/top_{row.top_k}/seconds_per_query": row.seconds_per_query
            for row in self.rows
            if row.top_k
        }
        for language, rows in self.by_language.items():
            found |= _figures(f"{language}/{self.way.name}", rows)
        return found

    def table(self) -> str:
        """Writes quality against depth; below it recall at the smallest k for each language."""
        way = self.way
        lines = [f"{way.title}, {len(way.orders)} queries, {way.candidates} candidates"]
        lines.append(reranking.table(self.rows, PROTOCOL.k))
        if self.by_language:
            k = min(self.rows[0].recall)
            names = [f"best {row.top_k}" if row.top_k else "none" for row in self.rows]
            lines.append(f"{f'recall@{k} of':<12}" + "".join(f"{name:>11}" for name in names))
            for language, rows in self.by_language.items():
                lines.append(f"{language:<12}" + "".join(f"{row.recall[k]:>11.1%}" for row in rows))
        return "\n".join(lines)


def measure(
    way: RetrievalWay,
    depths: Sequence[int],
    ks: Sequence[int],
    score: PairScores,
    batch_size: int,
    clock: reranking.Clock,
) -> MeasuredWay:
    """Re-ranks the best candidates of each query, timed.

    Args:
        way: the way of retrieval.
        depths: how many candidates are re-ranked.
        ks: of recall.
        score: scores pairs of texts and images.
        batch_size: pairs scored at once.
        clock: the time in seconds.

    Returns:
        Quality and cost at each depth.
    """
    pairs = sum(way.orders[:, :depth].size for depth in depths)
    rescorer = Rescorer(way, max(depths), score, pairs)

    def against_depth(part: RetrievalWay, scorer: reranking.Scorer) -> list[CascadeRow]:
        return reranking.against_depth(part.orders, depths, scorer, part.judgements, PROTOCOL, ks, batch_size, clock)

    rows = against_depth(way, rescorer)
    names = sorted(set(way.languages))
    chosen = {name: np.flatnonzero(np.array(way.languages) == name) for name in names if len(names) > 1}
    by_language = {
        name or "unknown": against_depth(way.part(queries), rescorer.of(queries)) for name, queries in chosen.items()
    }
    return MeasuredWay(way, rows, by_language, rescorer.matrix(max(depths)))


def _figures(at: str, rows: Sequence[CascadeRow]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        here = f"{at}/top_{row.top_k}"
        found |= {f"{here}/recall_at_{k}": value for k, value in row.recall.items()}
        found |= {f"{here}/ndcg_at_{PROTOCOL.k}": row.ndcg, f"{here}/pairs_per_query": row.pairs_per_query}
        if row.bound is not None:
            found[f"{here}/bound"] = row.bound
    return found
