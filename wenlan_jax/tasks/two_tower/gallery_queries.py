"""Which queries and answers the gallery of a retrieval evaluation shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wenlan_jax.evaluation import gallery, retrieval
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower.embedded_split import Embedded

GALLERY_TOP = 5
"""Answers shown for each query of the gallery."""


def write_gallery(out: Path, config: experiment.Config, embedded: Sequence[Embedded]) -> None:
    """Writes `gallery.html` of the first evaluated split, if the configuration wants one.

    Args:
        out: the folder for the page.
        config: `eval.gallery` says how many captions are shown.
        embedded: the evaluated splits.
    """
    count = config.eval.gallery
    if not embedded or not count:
        return
    first = embedded[0]
    queries: list[gallery.TextQuery | gallery.ImageQuery]
    queries = [*text_queries(first, count), *image_queries(first, -(-count // 3))]
    note = f"{first.source.name}: {len(first.source)} images, {len(first.texts)} texts"
    gallery.write_gallery(out / "gallery.html", queries, title="What the model retrieves", note=note)


def _spread(total: int, count: int) -> list[int]:
    """`count` numbers below `total`, evenly spread, chosen before any result is known."""
    return [int(i) for i in np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))]


def text_queries(embedded: Embedded, count: int) -> list[gallery.TextQuery]:
    """Chooses captions, languages in turn, and finds their best images.

    Args:
        embedded: a split.
        count: how many captions.

    Returns:
        The captions with their best images and the rank of the best true one.
    """
    by_language: dict[str, list[int]] = {}
    for number, text in enumerate(embedded.texts):
        by_language.setdefault(text.text.language, []).append(number)
    each = -(-count // len(by_language))
    chosen = [of[i] for of in by_language.values() for i in _spread(len(of), each)][:count]
    queries = embedded.text_embeddings[chosen]
    rows, scores = retrieval.top_k(queries, embedded.image_embeddings, GALLERY_TOP)
    found = []
    for place, number in enumerate(chosen):
        text = embedded.texts[number]
        hits = [
            gallery.ImageHit(embedded.source[int(row)].image, float(score), int(row) in text.rows)
            for row, score in zip(rows[place], scores[place], strict=True)
        ]
        rank = _rank(embedded.image_embeddings @ queries[place], text.rows)
        found.append(gallery.TextQuery(text.text.text, text.text.language, hits, rank))
    return found


def image_queries(embedded: Embedded, count: int) -> list[gallery.ImageQuery]:
    """Chooses images and finds their best captions.

    Args:
        embedded: a split.
        count: how many images.

    Returns:
        The images with their best captions and the rank of the best true one.
    """
    chosen = _spread(len(embedded.image_embeddings), count)
    links = embedded.links
    rows, scores = retrieval.top_k(embedded.image_embeddings[chosen], embedded.text_embeddings, GALLERY_TOP)
    found = []
    for place, image in enumerate(chosen):
        hits = [
            gallery.TextHit(
                embedded.texts[row].text.text,
                embedded.texts[row].text.language,
                float(score),
                image in embedded.texts[row].rows,
            )
            for row, score in zip(rows[place], scores[place], strict=True)
        ]
        true = links.text[links.image == image]
        rank = _rank(embedded.text_embeddings @ embedded.image_embeddings[image], true) if len(true) else None
        found.append(gallery.ImageQuery(embedded.source[image].image, hits, rank))
    return found


def _rank(scores: np.ndarray, true: Sequence[int] | np.ndarray) -> int:
    """Of the best true candidate: 1 plus the false ones that score at least as high."""
    best = scores[list(true)].max()
    false = np.ones(len(scores), bool)
    false[list(true)] = False
    return 1 + int(np.count_nonzero(scores[false] >= best))
