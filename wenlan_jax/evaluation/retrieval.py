"""Retrieval between images and texts: recall at k, ranks, chance levels, without the full score matrix.

The protocol. Scores are dot products. An image has one or more true texts, of which the best counts (COCO and
Flickr30k practice), and a text one or more true images (MUGE), see `true_pairs.py`. The rank of the truth is 1 plus
the number of false candidates that score at least as high: **ties count against the model**, so a collapsed model
gets the worst rank, not the best. The other truths of a query are never false.

Two equal candidates can score a few units in the last place apart, when they fall in different blocks of the
matrix product or were encoded in different batches. A false candidate therefore ties when it scores at most
TIE, times the norm of the query and the largest norm of the candidates, below the truth. So equal candidates
tie whatever the block size.

A model that sees image and text together has no embeddings: `from_scores` takes its scores of all pairs, where
a tie is measured against the largest score of the query.

The papers' "average recall" is `mean_recall` at k = 1, 5, 10 (AVERAGED). An image's texts are taken as they are:
where a language has one text an image and another has five, none is repeated to make up the number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from wenlan_jax.evaluation import true_pairs
from wenlan_jax.evaluation.true_pairs import Links, LinksLike, RetrievalError

TIE = 1e-6
"""Cosine difference up to which candidates tie: some ten times the error of a float32 product."""

AVERAGED = (1, 5, 10)
"""The k whose recalls in both directions, six figures, make up the average recall of the papers."""

CHUNK = 4096
"""Rows of queries and of candidates in one block: 64 MiB of float32 scores."""

Images = Float[np.ndarray, "images dim"]
Texts = Float[np.ndarray, "texts dim"]
Scores = Float[np.ndarray, "texts images"]
Rows = Int64[np.ndarray, " rows"]


def _blocks(length: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, length)) for start in range(0, length, chunk))


def _checked(name: str, embeddings: np.ndarray, chunk: int) -> Float32[np.ndarray, "rows columns"]:
    array = np.asarray(embeddings, np.float32)
    if array.ndim != 2 or not array.size:
        raise RetrievalError(f"{name}: a non-empty matrix (rows, dim) is needed, got shape {array.shape}.")
    for part in _blocks(len(array), chunk):
        if not np.isfinite(array[part]).all():
            row = part.start + int(np.flatnonzero(~np.isfinite(array[part]).all(axis=1))[0])
            raise RetrievalError(f"{name}: row {row} is not finite; the model that made it has diverged.")
    return array


def _check_links(images: Images, texts: Float[np.ndarray, "texts other"], image_of_text: LinksLike) -> Links:
    if images.shape[1] != texts.shape[1]:
        raise RetrievalError(f"Images have {images.shape[1]} dimensions, texts {texts.shape[1]}.")
    return true_pairs.known(image_of_text, len(texts), len(images))


def _norms(embeddings: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, " rows"]:
    return np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings))


def _best_truths(
    of_pair: Float32[np.ndarray, " pairs"], links: Links
) -> tuple[Float32[np.ndarray, " images"], Float32[np.ndarray, " texts"]]:
    """The score of each image with its best text (-inf without one), and of each text with its best image."""
    of_image, of_text = np.full(links.images, -np.inf, np.float32), np.full(links.texts, -np.inf, np.float32)
    np.maximum.at(of_image, links.image, of_pair)
    np.maximum.at(of_text, links.text, of_pair)
    return of_image, of_text


def _true_scores(
    images: Images, texts: Texts, links: Links, chunk: int
) -> tuple[Float32[np.ndarray, " images"], Float32[np.ndarray, " texts"]]:
    """See `_best_truths`."""
    of_pair = np.empty(len(links.text), np.float32)
    for part in _blocks(len(of_pair), chunk):
        of_pair[part] = np.einsum("nd,nd->n", texts[links.text[part]], images[links.image[part]])
    return _best_truths(of_pair, links)


def truth_ranks(
    image_embeddings: Images, text_embeddings: Texts, image_of_text: LinksLike, chunk: int = CHUNK
) -> tuple[Int64[np.ndarray, " images"], Int64[np.ndarray, " texts"]]:
    """Ranks the best true text of every image, and the best true image of every text.

    An image without a text is no query, but stays a candidate. Both directions come from one pass over blocks of
    `chunk` x `chunk` scores.

    Args:
        image_embeddings: vectors whose dot products are the scores.
        text_embeddings: vectors of the texts.
        image_of_text: the true pairs, see `true_pairs.LinksLike`.
        chunk: rows of a block.

    Returns:
        The ranks of images as queries, 0 for those without a text, and of texts as queries; both from 1.

    Raises:
        RetrievalError: for embeddings or links that do not fit together.
    """
    images = _checked("image_embeddings", image_embeddings, chunk)
    texts = _checked("text_embeddings", text_embeddings, chunk)
    links = _check_links(images, texts, image_of_text)
    of_image, of_text = _true_scores(images, texts, links, chunk)
    image_norms, text_norms = _norms(images), _norms(texts)
    image_floor = of_image - np.float32(TIE) * image_norms * text_norms.max()
    text_floor = of_text - np.float32(TIE) * text_norms * image_norms.max()
    image_ranks, text_ranks = np.ones(len(images), np.int64), np.ones(len(texts), np.int64)
    for columns in _blocks(len(texts), chunk):
        pairs = links.pairs(columns)
        text_of, image_of = links.text[pairs] - columns.start, links.image[pairs]
        for rows in _blocks(len(images), chunk):
            scores = images[rows] @ texts[columns].T
            inside = (image_of >= rows.start) & (image_of < rows.stop)
            scores[image_of[inside] - rows.start, text_of[inside]] = -np.inf
            image_ranks[rows] += np.count_nonzero(scores >= image_floor[rows, None], axis=1)
            text_ranks[columns] += np.count_nonzero(scores >= text_floor[columns], axis=0)
    image_ranks[links.texts_of_image == 0] = 0
    return image_ranks, text_ranks


def chance_recall(candidates: int, truths: Int[np.ndarray, " queries"], k: int) -> float:
    """Computes the expected recall of a random order.

    Hypergeometric, exactly: 1 - C(candidates - truths, k) / C(candidates, k).

    Args:
        candidates: their number.
        truths: how many of them are true for each query.
        k: how many of the best count.

    Returns:
        The mean over queries.
    """
    drawn = np.arange(min(k, candidates))
    false = (candidates - np.asarray(truths, np.float64))[:, None] - drawn
    misses = np.prod(np.maximum(false, 0.0) / (candidates - drawn), axis=1)
    return float(np.mean(1.0 - misses))


def _direction(
    name: str,
    ranks: Int64[np.ndarray, " queries"],
    candidates: int,
    truths: Int[np.ndarray, " truths"],
    ks: Sequence[int],
) -> dict[str, float]:
    metrics = {f"{name}/recall_at_{k}": float(np.mean(ranks <= k)) for k in ks}
    metrics |= {f"{name}/chance_recall_at_{k}": chance_recall(candidates, truths, k) for k in ks}
    return metrics | {
        f"{name}/median_rank": float(np.median(ranks)),
        f"{name}/mean_rank": float(np.mean(ranks)),
        f"{name}/queries": float(len(ranks)),
        f"{name}/candidates": float(candidates),
    }


def retrieval_metrics(
    image_embeddings: Images,
    text_embeddings: Texts,
    image_of_text: LinksLike,
    ks: Sequence[int] = AVERAGED,
    chunk: int = CHUNK,
) -> dict[str, float]:
    """Measures retrieval in both directions.

    Args:
        image_embeddings: vectors whose dot products are the scores.
        text_embeddings: vectors of the texts.
        image_of_text: the row of the image of each text, or `Links`.
        ks: of recall.
        chunk: rows of a block of scores.

    Returns:
        Recall at `ks`, its chance level, median and mean rank in both directions, and the mean of all recalls. Shares
        lie in [0, 1]. Names are flat, e.g. `text_to_image/recall_at_1`, `image_to_text/chance_recall_at_10`,
        `mean_recall`.

    Raises:
        RetrievalError: for embeddings or links that do not fit together.

    Example:
        >>> retrieval_metrics(images, texts, np.arange(len(texts)))["text_to_image/recall_at_1"]
    """
    image_ranks, text_ranks = truth_ranks(image_embeddings, text_embeddings, image_of_text, chunk)
    return of_ranks(image_ranks, text_ranks, image_of_text, ks)


def of_ranks(
    image_ranks: Int64[np.ndarray, " images"],
    text_ranks: Int64[np.ndarray, " texts"],
    image_of_text: LinksLike,
    ks: Sequence[int] = AVERAGED,
) -> dict[str, float]:
    """Computes the metrics of `retrieval_metrics` from ranks.

    Args:
        image_ranks: of images as queries, 0 for those without a text.
        text_ranks: of texts as queries.
        image_of_text: the true pairs.
        ks: of recall.

    Returns:
        See `retrieval_metrics`.

    Raises:
        RetrievalError: for `ks` below 1, or links that are not of so many texts and images.
    """
    if not ks or min(ks) < 1:
        raise RetrievalError(f"ks: numbers from 1 on are needed, got {tuple(ks)}.")
    links = true_pairs.known(image_of_text, len(text_ranks), len(image_ranks))
    queries = image_ranks > 0
    metrics = _direction("image_to_text", image_ranks[queries], links.texts, links.texts_of_image[queries], ks)
    truths = links.images_of_text
    alike = truths[:1] if (truths == truths[0]).all() else truths  # the mean of equal numbers, without its rounding
    metrics |= _direction("text_to_image", text_ranks, links.images, alike, ks)
    recalls = [value for name, value in metrics.items() if "/recall_at_" in name]
    return metrics | {"mean_recall": math.fsum(recalls) / len(recalls)}


def by_language(
    image_embeddings: Images,
    text_embeddings: Texts,
    image_of_text: LinksLike,
    languages: Sequence[str],
    ks: Sequence[int] = AVERAGED,
    chunk: int = CHUNK,
) -> dict[str, float]:
    """Measures retrieval among the texts of each language alone. All images stay candidates in every language.

    Args:
        image_embeddings: vectors whose dot products are the scores.
        text_embeddings: vectors of the texts.
        image_of_text: the true pairs.
        languages: of the texts.
        ks: of recall.
        chunk: rows of a block of scores.

    Returns:
        The metrics of `retrieval_metrics`, as `<language>/<name>`.
    """
    links = true_pairs.known(image_of_text, len(text_embeddings), len(image_embeddings))

    def part(chosen: Rows) -> dict[str, float]:
        return retrieval_metrics(image_embeddings, text_embeddings[chosen], links.of_texts(chosen), ks, chunk)

    return _by_language(languages, len(text_embeddings), part)


def _by_language(
    languages: Sequence[str], texts: int, metrics_of: Callable[[Rows], dict[str, float]]
) -> dict[str, float]:
    if len(languages) != texts:
        raise RetrievalError(f"languages: {texts} entries are needed, got {len(languages)}.")
    labels = np.array(languages)
    metrics: dict[str, float] = {}
    for language in sorted(set(languages)):
        part = metrics_of(np.flatnonzero(labels == language))
        metrics |= {f"{language or 'unknown'}/{name}": value for name, value in part.items()}
    return metrics


def score_ranks(
    scores: Scores, image_of_text: LinksLike, chunk: int = CHUNK
) -> tuple[Int64[np.ndarray, " images"], Int64[np.ndarray, " texts"]]:
    """Computes the ranks of `truth_ranks` for a model that scores pairs.

    Args:
        scores: `scores[m, n]` of text m with image n, float32.
        image_of_text: the true pairs.
        chunk: rows of a block.

    Returns:
        The ranks of images as queries, 0 for those without a text, and of texts as queries.

    Raises:
        RetrievalError: for half-precision scores: rounding makes ties of them, which count against the model.
    """
    if np.asarray(scores).dtype.itemsize < 4:
        raise RetrievalError(f"scores: {scores.dtype} makes ties of scores that differ; keep them in float32.")
    matrix = _checked("scores", scores, chunk)
    links = true_pairs.known(image_of_text, *matrix.shape)
    of_image, of_text = _best_truths(matrix[links.text, links.image], links)
    text_floor = of_text - np.float32(TIE) * np.maximum(matrix.max(axis=1), -matrix.min(axis=1))
    image_floor = of_image - np.float32(TIE) * np.maximum(matrix.max(axis=0), -matrix.min(axis=0))
    image_ranks, text_ranks = np.ones(links.images, np.int64), np.ones(links.texts, np.int64)
    for rows in _blocks(len(matrix), chunk):
        false, pairs = matrix[rows].copy(), links.pairs(rows)
        false[links.text[pairs] - rows.start, links.image[pairs]] = -np.inf
        text_ranks[rows] += np.count_nonzero(false >= text_floor[rows, None], axis=1)
        image_ranks += np.count_nonzero(false >= image_floor, axis=0)
    image_ranks[links.texts_of_image == 0] = 0
    return image_ranks, text_ranks


def from_scores(
    scores: Scores, image_of_text: LinksLike, ks: Sequence[int] = AVERAGED, chunk: int = CHUNK
) -> dict[str, float]:
    """Computes the metrics of `retrieval_metrics` for a model that scores pairs.

    Args:
        scores: `scores[m, n]` of text m with image n, float32.
        image_of_text: the true pairs.
        ks: of recall.
        chunk: rows of a block.

    Returns:
        See `retrieval_metrics`.
    """
    return of_ranks(*score_ranks(scores, image_of_text, chunk), image_of_text, ks)


def scores_by_language(
    scores: Scores,
    image_of_text: LinksLike,
    languages: Sequence[str],
    ks: Sequence[int] = AVERAGED,
) -> dict[str, float]:
    """Computes the metrics of `by_language` for a model that scores pairs.

    Args:
        scores: `scores[m, n]` of text m with image n, float32.
        image_of_text: the true pairs.
        languages: of the texts.
        ks: of recall.

    Returns:
        The metrics as `<language>/<name>`.
    """
    links = true_pairs.known(image_of_text, *np.shape(scores))
    return _by_language(languages, len(scores), lambda chosen: from_scores(scores[chosen], links.of_texts(chosen), ks))


def over_folds(
    metrics_of: Callable[[Rows, Rows, Links], Mapping[str, float]],
    image_of_text: LinksLike,
    images: int,
    folds: int,
) -> dict[str, float]:
    """Averages each metric over equal runs of consecutive images; 5 x 1,000 is COCO's "1K test".

    Only the images and texts of a fold are candidates in it; a text with images in several folds is a query of each of
    them. So a model that scores pairs need not score those across folds.

    Args:
        metrics_of: called with image rows, text rows and the links within the fold, gives the metrics of one fold.
        image_of_text: the true pairs.
        images: the number of images.
        folds: the number of folds.

    Returns:
        The means. A metric that some folds lack, such as of a language without texts there, is the mean over those that
        have it.

    Raises:
        RetrievalError: if the images do not divide evenly.
    """
    given = image_of_text
    links = given if isinstance(given, Links) else true_pairs.known(given, len(given), images)
    check_folds(images, folds)
    found = []
    for part in _blocks(images, images // folds):
        texts, within = links.within(part)
        found.append(metrics_of(np.arange(part.start, part.stop), texts, within))
    named: dict[str, list[float]] = {}
    for name, value in itertools.chain.from_iterable(metrics.items() for metrics in found):
        named.setdefault(name, []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in named.items()}


def check_folds(images: int, folds: int) -> None:
    """Checks that images divide evenly into folds.

    Args:
        images: the number of images.
        folds: the number of folds.

    Raises:
        RetrievalError: if they do not.
    """
    if folds < 1 or images % folds:
        raise RetrievalError(f"{images} images cannot be split into {folds} equal folds.")


def average_recall(metrics: Mapping[str, float], prefix: str = "") -> float:
    """Computes the papers' average recall: the mean of recall at 1, 5 and 10 in both directions.

    Args:
        metrics: by name.
        prefix: of the names, e.g. `en/`.

    Returns:
        The mean, in [0, 1].

    Raises:
        RetrievalError: if one of the six was not computed.
    """
    names = [f"{prefix}{way}/recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in AVERAGED]
    missing = [name for name in names if name not in metrics]
    if missing:
        raise RetrievalError(f"The average recall needs {', '.join(missing)}; evaluate at k = {AVERAGED}.")
    return math.fsum(metrics[name] for name in names) / len(names)


def average_table(rows: Mapping[str, Mapping[str, float]], languages: Sequence[str]) -> str:
    """Writes a table of average recall in percent: a column a language, then their mean.

    Args:
        rows: by the name of the row, such as the languages trained on, the metrics of `by_language`.
        languages: the columns. A language that a row lacks is left empty and has no part in the mean.

    Returns:
        The table.
    """
    width = max([len(name) for name in rows] + [8]) + 2
    lines = [" " * width + "".join(f"{language:>8}" for language in [*languages, "mean"])]
    for name, metrics in rows.items():
        known = {of: average_recall(metrics, f"{of}/") for of in languages if f"{of}/mean_recall" in metrics}
        cells = [f"{100 * known[of]:>8.1f}" if of in known else f"{'':>8}" for of in languages]
        if known:
            cells.append(f"{100 * math.fsum(known.values()) / len(known):>8.1f}")
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)


def top_k(
    query_embeddings: Float[np.ndarray, "queries dim"],
    candidate_embeddings: Float[np.ndarray, "candidates dim"],
    k: int,
    chunk: int = CHUNK,
) -> tuple[Int64[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
    """Finds the best candidates of each query.

    Args:
        query_embeddings: vectors.
        candidate_embeddings: vectors; scores are dot products.
        k: how many; cut to the number of candidates.
        chunk: rows of a block of scores.

    Returns:
        Rows and scores of the candidates, best first, equal scores by row.

    Raises:
        RetrievalError: for `k` below 1, or embeddings that hold no finite numbers.
    """
    queries = _checked("query_embeddings", query_embeddings, chunk)
    candidates = _checked("candidate_embeddings", candidate_embeddings, chunk)
    if k < 1:
        raise RetrievalError(f"k must be at least 1, got {k}.")
    k = min(k, len(candidates))
    rows, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for part in _blocks(len(queries), chunk):
        best = np.empty((part.stop - part.start, 0), np.float32)
        where = np.empty((part.stop - part.start, 0), np.int64)
        for columns in _blocks(len(candidates), chunk):
            fresh = queries[part] @ candidates[columns].T
            numbers = np.broadcast_to(np.arange(columns.start, columns.stop), fresh.shape)
            best, where = _keep_best(np.hstack([best, fresh]), np.hstack([where, numbers]), k)
        rows[part], scores[part] = where, best
    return rows, scores


def _keep_best(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best columns of each line, sorted; of equal scores a stable sort keeps the lower row."""
    if scores.shape[1] > 4 * k:
        # All that reach the k-th best score stay in the race: argpartition alone would cut ties at random.
        floor = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
        width = int(np.count_nonzero(scores >= floor, axis=1).max())
        near = np.argsort(scores < floor, axis=1, kind="stable")[:, :width]
        scores, rows = np.take_along_axis(scores, near, 1), np.take_along_axis(rows, near, 1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
