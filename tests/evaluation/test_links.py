"""Texts of several images are one query with several truths, in every protocol of retrieval."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from listed_records import with_ids

from wenlan_jax.applications import cascade, rerank_page
from wenlan_jax.data import loader, records
from wenlan_jax.evaluation import query_ranks, retrieval, true_pairs
from wenlan_jax.evaluation import statistics as stats
from wenlan_jax.report import results
from wenlan_jax.tasks.two_tower import embedded_split, gallery_queries

Said = tuple[int, str, str]
"""Row of the record, language, text."""


def each(*said: Said) -> list[loader.RecordText]:
    return [loader.RecordText(row, records.Text("title", language, text)) for row, language, text in said]


def split(
    texts: list[loader.RecordText], images: np.ndarray, words: np.ndarray, chosen: list[loader.RecordText] | None = None
) -> embedded_split.Embedded:
    """A split of equal images in bytes, with these embeddings."""
    source = with_ids(f"p{row}" for row in range(len(images)))
    return embedded_split.Embedded(source, true_pairs.distinct(chosen or texts, texts), images, words)


def shop() -> tuple[list[loader.RecordText], np.ndarray, np.ndarray]:
    """Four titles, each of three images that are near it and nearer it than any other."""
    noise = 0.01 * np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    eye = np.eye(4, dtype=np.float32)
    return each(*((row, "zh", f"title {row // 3}") for row in range(12))), np.repeat(eye, 3, axis=0) + noise, eye


def _definition(scores: np.ndarray, pairs: set[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Ranks one query at a time: 1 plus the false candidates that score at least as high as the best truth."""
    texts, images = scores.shape

    def rank(line: np.ndarray, true: list[int]) -> int:
        false = np.delete(line, true)
        return 1 + int((false >= line[true].max()).sum()) if true else 0

    of_images = [rank(scores[:, image], [t for t in range(texts) if (t, image) in pairs]) for image in range(images)]
    of_texts = [rank(scores[text], [i for i in range(images) if (text, i) in pairs]) for text in range(texts)]
    return of_images, of_texts


@pytest.mark.parametrize("chunk", [1, 3, 8, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blocks_equal_the_definition_with_several_truths_both_ways(chunk: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, texts = (rng.integers(-2, 3, (rows, 5)).astype(np.float32) for rows in (21, 34))
    rows = [rng.choice(19, size=rng.integers(1, 5), replace=False).tolist() for _ in range(34)]
    known = true_pairs.of_rows(rows, 21)
    expected = _definition(texts @ images.T, {(text, row) for text, of in enumerate(rows) for row in of})
    assert [ranks.tolist() for ranks in retrieval.truth_ranks(images, texts, known, chunk)] == list(expected)
    assert [ranks.tolist() for ranks in retrieval.score_ranks(texts @ images.T, known, chunk)] == list(expected)
    assert expected[0][19:] == [0, 0]


def test_a_perfect_model_has_every_title_of_several_images_right() -> None:
    texts, images, words = shop()
    metrics, _ = split(texts, images, words).metrics((1, 5), "retrieval/test", folds=2)
    for at in ("retrieval/test", "retrieval/test/folds"):
        assert metrics[f"{at}/text_to_image/recall_at_1"] == metrics[f"{at}/image_to_text/recall_at_1"] == 1.0
    counts = [metrics[f"retrieval/test/text_to_image/{name}"] for name in ("queries", "candidates")]
    counts += [metrics[f"retrieval/test/image_to_text/{name}"] for name in ("queries", "candidates")]
    assert counts == [4, 12, 12, 4]
    assert metrics["retrieval/test/text_to_image/chance_recall_at_1"] == pytest.approx(3 / 12)
    assert metrics["retrieval/test/image_to_text/chance_recall_at_1"] == pytest.approx(1 / 4)


def test_a_collapsed_model_has_the_worst_rank_with_several_truths() -> None:
    texts, images, words = shop()
    _, found = split(texts, np.ones_like(images), np.ones_like(words)).metrics((1,), "retrieval/test")
    assert set(found.text_to_image.tolist()) == {10}  # behind its 9 false images
    assert set(found.image_to_text.tolist()) == {4}


@pytest.mark.parametrize(
    ("said", "rows"),
    [
        ([(0, "zh", "红 鞋"), (1, "zh", "红  鞋\n"), (2, "zh", "红鞋")], [(0, 1), (2,)]),  # white space collapses
        ([(0, "fr", "caf\u00e9"), (1, "fr", "cafe\u0301")], [(0, 1)]),  # composed and decomposed
        ([(0, "en", "bus"), (1, "de", "bus")], [(0,), (1,)]),  # languages are apart
        ([(0, "en", "Bus"), (1, "en", "bus")], [(0,), (1,)]),  # letters are as they are
        ([(3, "en", "bus"), (3, "en", "bus"), (1, "en", "bus")], [(3, 1)]),  # twice in a record
        ([(0, "ja", "ｶﾞ"), (1, "ja", "ガ")], [(0,), (1,)]),  # widths are apart
    ],
)
def test_equal_words_of_a_language_are_one_text(said: list[Said], rows: list[tuple[int, ...]]) -> None:
    texts = each(*said)
    assert [text.rows for text in true_pairs.distinct(texts, texts)] == rows


def test_a_chosen_text_is_true_of_every_image_that_has_it() -> None:
    texts = each((0, "en", "a"), (0, "en", "b"), (1, "en", "b"), (1, "en", "a"), (2, "en", "c"))
    one_each = [texts[0], texts[2], texts[4]]
    found = true_pairs.distinct(one_each, texts)
    assert [(text.text.text, text.rows) for text in found] == [("a", (0, 1)), ("b", (1, 0)), ("c", (2,))]


def test_texts_with_an_image_each_give_the_figures_of_plain_rows() -> None:
    rng = np.random.default_rng(5)
    images, words, rows = rng.standard_normal((30, 4)), rng.standard_normal((70, 4)), rng.integers(0, 28, 70)
    languages = ["zh", "en"] * 35
    known = true_pairs.of_rows(rows[:, None].tolist(), 30)
    for figures in (retrieval.retrieval_metrics, lambda *args: retrieval.by_language(*args, languages)):
        assert figures(images, words, known) == figures(images, words, rows)
    assert np.array_equal(np.asarray(known), rows)
    assert np.array_equal(known.groups, np.arange(30))


def test_a_text_is_a_query_of_every_fold_that_has_one_of_its_images() -> None:
    known = true_pairs.of_rows([[0, 2], [1], [3, 2]], 4)
    seen = []

    def fold(images: np.ndarray, texts: np.ndarray, within: true_pairs.Links) -> dict[str, float]:
        seen.append((images.tolist(), texts.tolist(), within.text.tolist(), within.image.tolist()))
        return {}

    retrieval.over_folds(fold, known, 4, 2)
    assert seen == [([0, 1], [0, 1], [0, 1], [0, 1]), ([2, 3], [0, 2], [0, 1, 1], [0, 0, 1])]


@pytest.mark.parametrize(
    ("rows", "images", "message"),
    [([[0], []], 2, "text 1 has no image"), ([[0], [2]], 2, r"\[0, 2\)"), ([[-1]], 2, r"\[0, 2\)")],
)
def test_faulty_links_are_named(rows: list[list[int]], images: int, message: str) -> None:
    with pytest.raises(true_pairs.RetrievalError, match=message):
        true_pairs.of_rows(rows, images)


def test_links_of_other_embeddings_are_refused() -> None:
    x = np.eye(4, dtype=np.float32)
    with pytest.raises(true_pairs.RetrievalError, match="of 2 texts and 4 images, but there are 4 and 4"):
        retrieval.truth_ranks(x, x, true_pairs.of_rows([[0], [1, 2]], 4))
    with pytest.raises(true_pairs.RetrievalError, match="several images"):
        np.asarray(true_pairs.of_rows([[0], [1, 2]], 4))


def test_the_cascade_and_its_page_take_every_image_of_a_text_for_true() -> None:
    texts, images, words = shop()
    embedded = split(texts, images, words)
    image_ranks, text_ranks = retrieval.truth_ranks(images, words, embedded.links)
    for way, found in zip(cascade.ways(embedded, 12), (text_ranks, image_ranks), strict=True):
        measured = cascade.measure(way, [4], (1,), lambda t, p: (p // 3 == t).astype(np.float32), 5, lambda: 0.0)
        assert [row.recall[1] for row in measured.rows] == [1.0, 1.0]
        assert [row.ndcg for row in measured.rows] == [pytest.approx(1.0)] * 2
        for query in range(len(way.orders)):
            before, after = rerank_page.before_and_after(embedded, measured, query)
            assert before.rank == after.rank == found[query] == 1
            assert sum(hit.is_true for hit in after.hits) == (3 if way.name == cascade.TEXT_TO_IMAGE else 1)


def test_the_gallery_frames_every_truth_and_tells_the_rank_of_the_best() -> None:
    texts, images, words = shop()
    embedded = split(texts, images, words[[1, 0, 2, 3]])  # the first two titles are mistaken for each other
    image_ranks, text_ranks = retrieval.truth_ranks(images, embedded.text_embeddings, embedded.links)
    found = gallery_queries.text_queries(embedded, 4)
    assert [query.rank for query in found] == text_ranks.tolist()
    assert [sum(hit.is_true for hit in query.hits) for query in found][2:] == [3, 3]
    assert [query.rank for query in gallery_queries.image_queries(embedded, 12)] == image_ranks.tolist()


def test_intervals_draw_images_that_share_a_text_together(tmp_path: Path) -> None:
    texts, images, words = shop()
    noise = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    metrics, found = split(texts, images, words + noise).metrics((1, 5), "retrieval/test")
    query_ranks.write(tmp_path, "test", found)
    again = query_ranks.read(tmp_path, "test")
    assert again.same_queries(found) and again.of_text.tolist() == [row // 3 for row in range(12)]
    for name in ("text_to_image/recall_at_1", "image_to_text/recall_at_1", "mean_recall"):
        hits = stats.hits(again, f"retrieval/test/{name}", (1, 5))
        assert hits is not None and len(hits.hits) == 4
        assert hits.value() == pytest.approx(metrics[f"retrieval/test/{name}"], abs=1e-12)
    assert "not of the evaluation" not in "".join(results.parts(metrics, {"test": again}))
    one_each = dataclasses.replace(again, of_text=np.arange(4), image=np.arange(0, 12, 3))
    assert not again.same_queries(one_each)


def test_groups_are_what_a_chain_of_texts_connects() -> None:
    known = true_pairs.of_rows([[5, 3], [3, 0], [1], [4, 2]], 7)
    assert known.groups.tolist() == [0, 1, 2, 0, 2, 0, 3]
