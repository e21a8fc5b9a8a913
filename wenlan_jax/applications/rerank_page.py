"""The page of `wenlan rerank`: queries with their best answers by two towers, and below them after re-ranking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wenlan_jax.applications import cascade
from wenlan_jax.applications.cascade import TEXT_TO_IMAGE, MeasuredWay, RetrievalWay
from wenlan_jax.evaluation import gallery, reranking
from wenlan_jax.evaluation.reranking import Orders
from wenlan_jax.tasks.two_tower.embedded_split import Embedded

BEST = 5
"""Answers shown of each query."""

TITLE = "What re-ranking changes"


def write(path: Path, embedded: Embedded, measured: Sequence[MeasuredWay], count: int) -> None:
    """Writes the page of re-ranking, both ways of a split.

    Args:
        path: the file.
        embedded: the split, embedded by the two towers.
        measured: both ways.
        count: how many texts are shown, and a third as many images, evenly spread.
    """
    queries: list[gallery.GalleryRow] = []
    for found in measured:
        wanted = count if found.way.name == TEXT_TO_IMAGE else -(-count // 3)
        numbers = np.unique(np.linspace(0, len(found.way.orders) - 1, wanted).astype(int))
        for number in numbers.tolist():
            queries += before_and_after(embedded, found, number)
    note = f"{embedded.source.name}: {len(embedded.source)} images, {len(embedded.texts)} texts"
    gallery.write_gallery(path, queries, TITLE, note)


def before_and_after(embedded: Embedded, found: MeasuredWay, number: int) -> list[gallery.GalleryRow]:
    """Makes two rows of a query: by two towers, and after re-ranking.

    Args:
        embedded: the split.
        found: one way of retrieval.
        number: of the query.

    Returns:
        Both rows; scores are cosines before, and those of the single tower after.
    """
    way, depth = found.way, found.scores.shape[1]
    before = _whole_order(embedded, way, number)
    after = reranking.reorder(before, found.scores[number : number + 1])
    shown = before[0, : min(BEST, depth)]
    texts, images = way.sides(np.full(len(shown), number), shown)
    cosines = np.einsum("nd,nd->n", embedded.text_embeddings[texts], embedded.image_embeddings[images])
    best = np.sort(found.scores[number])[::-1]
    return [
        _row(embedded, way, number, before[0], cosines, "two towers"),
        _row(embedded, way, number, after[0], best[: len(shown)], f"best {depth} re-ranked"),
    ]


def _whole_order(embedded: Embedded, way: RetrievalWay, number: int) -> Orders:
    """All candidates of a query by the two towers, (1, candidates): first those of the way, which are its best."""
    sides = (embedded.text_embeddings, embedded.image_embeddings)
    queries, candidates = sides if way.name == TEXT_TO_IMAGE else sides[::-1]
    query = queries[way.queries[number : number + 1]]
    everything = cascade.best(query, candidates, way.judgements[number : number + 1], way.candidates)[0]
    known = way.orders[number]
    return np.concatenate([known, everything[~np.isin(everything, known)]])[None]


def _row(
    embedded: Embedded, way: RetrievalWay, number: int, order: np.ndarray, scores: np.ndarray, found_by: str
) -> gallery.GalleryRow:
    """A query with as many of its answers as there are scores."""
    truths, query = way.judgements[number], int(way.queries[number])
    rank = next(place for place, row in enumerate(order.tolist(), start=1) if row in truths)
    best = list(zip(order.tolist(), scores.tolist(), strict=False))
    if way.name == TEXT_TO_IMAGE:
        hits = [gallery.ImageHit(embedded.source[row].image, score, row in truths) for row, score in best]
        text = embedded.texts[query].text
        return gallery.TextQuery(text.text, text.language, hits, rank, found_by)
    said = [(embedded.texts[row].text, score, row in truths) for row, score in best]
    lines = [gallery.TextHit(text.text, text.language, score, is_true) for text, score, is_true in said]
    return gallery.ImageQuery(embedded.source[query].image, lines, rank, found_by)
