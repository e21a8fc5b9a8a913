"""Retrieval figures: chunked equals full, ties count against, chance in closed form."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from annotations import unchecked

from wenlan_jax.evaluation import retrieval


def _grid(rows: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    """Small whole numbers: exactly representable, so that scores and ties are exact."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, dim)).astype(np.float32)


def _unit(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _slow_ranks(images: np.ndarray, texts: np.ndarray, links: np.ndarray) -> tuple[list[int], list[int]]:
    """The definition, one query at a time: the whole matrix and plain comparisons."""
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    image_ranks = []
    for row, line in enumerate(scores):
        own = links == row
        image_ranks.append(1 + int((line[~own] >= line[own].max()).sum()) if own.any() else 0)
    text_ranks = [
        1 + int((np.delete(scores[:, column], links[column]) >= scores[links[column], column]).sum())
        for column in range(len(texts))
    ]
    return image_ranks, text_ranks


@pytest.mark.parametrize("chunk", [1, 3, 7, 50, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_blocks_equal_the_definition_with_ties_and_many_captions(chunk: int, seed: int) -> None:
    images, texts = _grid(23, seed=seed), _grid(61, seed=seed + 10)
    links = np.random.default_rng(seed).integers(0, 20, 61)  # images 20 to 22 have no text
    image_ranks, text_ranks = retrieval.truth_ranks(images, texts, links, chunk)
    expected_images, expected_texts = _slow_ranks(images, texts, links)
    assert image_ranks.tolist() == expected_images
    assert 0 in expected_images
    assert text_ranks.tolist() == expected_texts


def test_hand_computed_case() -> None:
    images = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    texts = np.array([[1, 0], [0, 1], [0.8, 0.6], [0, 1]], np.float32)
    metrics = retrieval.retrieval_metrics(images, texts, np.array([0, 1, 2, 0]), ks=(1, 2))
    # Texts: 1, 1, 1 (scores .8, .6, .96), 3. Images: 1; 2 (text 3 ties); 1 (.96 against .6, .8, .8).
    assert metrics["text_to_image/recall_at_1"] == 0.75
    assert metrics["text_to_image/recall_at_2"] == 0.75
    assert metrics["text_to_image/mean_rank"] == 1.5
    assert metrics["image_to_text/recall_at_1"] == pytest.approx(2 / 3)
    assert metrics["image_to_text/recall_at_2"] == 1.0
    assert metrics["image_to_text/median_rank"] == 1.0
    assert metrics["mean_recall"] == pytest.approx((0.75 + 0.75 + 2 / 3 + 1) / 4)


def test_a_perfect_model_is_perfect() -> None:
    x = _unit(40, 16)
    metrics = retrieval.retrieval_metrics(x, x, np.arange(40), chunk=7)
    assert metrics["mean_recall"] == 1.0
    assert metrics["image_to_text/mean_rank"] == 1.0


def test_a_collapsed_model_gets_the_worst_rank() -> None:
    same = np.repeat(_unit(1, 64), 30, axis=0)
    metrics = retrieval.retrieval_metrics(same, same, np.arange(30), ks=(1, 29), chunk=7)
    assert metrics["text_to_image/mean_rank"] == 30
    assert metrics["image_to_text/recall_at_29"] == 0


@pytest.mark.parametrize("chunk", [5, 64, 257, 4096])
def test_equal_candidates_tie_in_whatever_block_they_are(chunk: int) -> None:
    images = _unit(300, 2048)
    texts = images[:150] + 0.05 * _unit(150, 2048, seed=1)
    images[150:] = images[:150]  # every image has a copy 150 rows further on
    ranks = retrieval.truth_ranks(images, texts, np.arange(150), chunk)[1]
    assert (ranks == 2).all()


def test_candidates_encoded_a_rounding_apart_tie() -> None:
    images = _unit(50, 512)
    texts = images.copy()
    noise = np.random.default_rng(3).uniform(-1, 1, images.shape).astype(np.float32)
    copies = images * (1 + 1.2e-7 * noise)
    ranks = retrieval.truth_ranks(np.concatenate([images, copies]), texts, np.arange(50))[1]
    assert (ranks == 2).all()


def test_a_clear_difference_is_no_tie() -> None:
    images = np.array([[1, 0], [1 - 1e-5, 0]], np.float32)
    assert retrieval.truth_ranks(images, images[:1], np.array([0]))[1].tolist() == [1]


def test_scale_does_not_matter() -> None:
    images, texts, links = _unit(40, 8), _unit(60, 8, 1), np.random.default_rng(0).integers(0, 40, 60)
    base = retrieval.retrieval_metrics(images, texts, links)
    assert retrieval.retrieval_metrics(1024 * images, texts / 64, links) == base


def test_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    images, texts, links = _grid(20), _grid(45, seed=1), rng.integers(0, 20, 45)
    move_images, move_texts = rng.permutation(20), rng.permutation(45)
    moved = np.argsort(move_images)[links][move_texts]
    base = retrieval.retrieval_metrics(images, texts, links, chunk=8)
    assert retrieval.retrieval_metrics(images[move_images], texts[move_texts], moved, chunk=8) == base


@pytest.mark.parametrize(
    ("candidates", "truths", "k"), [(7, 1, 1), (7, 1, 3), (7, 2, 3), (7, 5, 3), (7, 3, 7), (4, 1, 10)]
)
def test_chance_is_the_share_of_all_draws(candidates: int, truths: int, k: int) -> None:
    draws = list(itertools.combinations(range(candidates), min(k, candidates)))
    hits = sum(min(draw) < truths for draw in draws) / len(draws)
    assert retrieval.chance_recall(candidates, np.array([truths]), k) == pytest.approx(hits)


def test_chance_averages_over_queries_and_stays_exact_when_large() -> None:
    both = retrieval.chance_recall(100_000, np.array([1, 5]), 10)
    five = 1 - math.comb(99_995, 10) / math.comb(100_000, 10)
    assert both == pytest.approx((10 / 100_000 + five) / 2, rel=1e-9)


def test_random_embeddings_score_at_chance() -> None:
    links = np.repeat(np.arange(400), 5)
    metrics = retrieval.retrieval_metrics(_unit(400, 64), _unit(2000, 64, 1), links)
    for direction, queries in (("image_to_text", 400), ("text_to_image", 2000)):
        chance = metrics[f"{direction}/chance_recall_at_10"]
        spread = math.sqrt(chance * (1 - chance) / queries)
        assert abs(metrics[f"{direction}/recall_at_10"] - chance) < 4 * spread


def test_languages_are_scored_among_their_own_texts() -> None:
    images, texts = _grid(10), _grid(30, seed=1)
    links, languages = np.tile(np.arange(10), 3), ["zh"] * 10 + ["en"] * 10 + [""] * 10
    metrics = retrieval.by_language(images, texts, links, languages)
    alone = retrieval.retrieval_metrics(images, texts[10:20], links[10:20])
    assert {name.removeprefix("en/"): v for name, v in metrics.items() if name.startswith("en/")} == alone
    assert "zh/text_to_image/recall_at_1" in metrics
    assert "unknown/image_to_text/candidates" in metrics


@pytest.mark.parametrize("chunk", [1, 4, 9, 100])
@pytest.mark.parametrize("k", [1, 3, 10, 99])
def test_top_k_equals_a_full_sort(chunk: int, k: int) -> None:
    queries, candidates = _grid(12), _grid(70, seed=1)
    full = queries @ candidates.T
    order = np.argsort(-full, axis=1, kind="stable")[:, :k]
    rows, scores = retrieval.top_k(queries, candidates, k, chunk)
    assert np.array_equal(rows, order)
    assert np.array_equal(scores, np.take_along_axis(full, order, 1))


def test_memory_is_that_of_a_few_blocks() -> None:
    images, texts = _unit(6000, 8), _unit(6000, 8, 1)
    tracemalloc.start()
    retrieval.retrieval_metrics(images, texts, np.arange(6000), chunk=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6 < 6000 * 6000 * 4


@pytest.mark.parametrize(
    ("images", "texts", "links", "message"),
    [
        (np.full((2, 3), np.nan), np.ones((1, 3)), [0], "image_embeddings: row 0 is not finite"),
        (np.ones((2, 3)), np.ones((2, 4)), [0, 1], "Images have 3 dimensions, texts 4"),
        (np.ones((2, 3)), np.ones((2, 3)), [0, 2], r"\[0, 2\)"),
        (np.ones((2, 3)), np.ones((2, 3)), [0], "2 integers are needed"),
        (np.ones((2, 3)), np.ones((2, 3)), [0.0, 1.0], "2 integers are needed"),
        (np.ones((0, 3)), np.ones((2, 3)), [0, 1], "image_embeddings: a non-empty matrix"),
    ],
)
def test_faulty_input_is_named(images: np.ndarray, texts: np.ndarray, links: list[float], message: str) -> None:
    with unchecked(), pytest.raises(retrieval.RetrievalError, match=message):
        retrieval.retrieval_metrics(images, texts, np.array(links))


def test_faulty_numbers_are_named() -> None:
    x = _unit(3, 2)
    with pytest.raises(retrieval.RetrievalError, match="ks"):
        retrieval.retrieval_metrics(x, x, np.arange(3), ks=(0,))
    with pytest.raises(retrieval.RetrievalError, match="k must be"):
        retrieval.top_k(x, x, 0)
    with pytest.raises(retrieval.RetrievalError, match="languages: 3 entries"):
        retrieval.by_language(x, x, np.arange(3), ["zh"])


def _slow_score_ranks(scores: np.ndarray, links: np.ndarray) -> tuple[list[int], list[int]]:
    """The definition for scores of pairs, by sorting: the truth behind all false candidates that it equals."""
    texts, images = scores.shape
    text_ranks, image_ranks = [], []
    for text in range(texts):
        line = sorted(range(images), key=lambda image: (-scores[text, image], image == links[text]))
        text_ranks.append(1 + line.index(links[text]))
    for image in range(images):
        line = sorted(range(texts), key=lambda text: (-scores[text, image], links[text] == image))
        # All before its first own text are false, so that one's place counts them.
        image_ranks.append(next((1 + place for place, text in enumerate(line) if links[text] == image), 0))
    return image_ranks, text_ranks


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_of_pairs_equal_the_definition_with_ties_and_many_captions(chunk: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 9, (61, 23)).astype(np.float32)  # few values: most queries have ties
    links = rng.integers(0, 20, 61)  # between none and many texts an image
    image_ranks, text_ranks = retrieval.score_ranks(scores, links, chunk)
    expected_images, expected_texts = _slow_score_ranks(scores, links)
    assert image_ranks.tolist() == expected_images
    assert text_ranks.tolist() == expected_texts
    assert expected_images[20:] == [0, 0, 0]


def test_scores_of_embeddings_give_the_figures_of_the_embeddings() -> None:
    images, texts, links = _unit(40, 8), _unit(90, 8, 1), np.random.default_rng(0).integers(0, 35, 90)
    found = retrieval.from_scores(texts @ images.T, links)
    assert found == retrieval.retrieval_metrics(images, texts, links)
    languages = ["zh", "en", "de"] * 30
    by_scores = retrieval.scores_by_language(texts @ images.T, links, languages)
    assert by_scores == retrieval.by_language(images, texts, links, languages)


def test_any_text_of_an_image_is_a_hit_and_not_a_fraction_of_them() -> None:
    scores = np.zeros((5, 2), np.float32)
    scores[:, 0] = [0.1, 0.2, 0.9, 0.3, 0.4]
    links = np.array([0, 1, 0, 0, 0])
    assert retrieval.from_scores(scores, links, (1,))["image_to_text/recall_at_1"] == 0.5  # image 1 ties with all
    scores[1, 1] = 1
    assert retrieval.from_scores(scores, links, (1,))["image_to_text/recall_at_1"] == 1.0


def test_a_collapsed_scorer_gets_the_worst_rank() -> None:
    found = retrieval.from_scores(np.full((30, 30), 0.7, np.float32), np.arange(30), (1, 29, 30))
    assert (found["text_to_image/recall_at_29"], found["image_to_text/recall_at_29"]) == (0, 0)
    assert found["text_to_image/recall_at_30"] == 1


def test_images_that_stand_twice_tie_even_a_rounding_apart() -> None:
    scores = np.random.default_rng(0).standard_normal((20, 20)).astype(np.float32)
    scores[np.arange(20), np.arange(20)] = 5
    doubled = np.concatenate([scores, scores * np.float32(1 - 1e-7)], axis=1)
    ranks = retrieval.score_ranks(doubled, np.arange(20))[1]
    assert (ranks == 2).all()
    assert (retrieval.score_ranks(scores, np.arange(20))[1] == 1).all()


def test_random_scores_reach_chance_in_closed_form() -> None:
    scores = np.random.default_rng(0).standard_normal((1500, 300)).astype(np.float32)
    found = retrieval.from_scores(scores, np.repeat(np.arange(300), 5))
    assert found["text_to_image/chance_recall_at_10"] == pytest.approx(10 / 300)
    assert found["image_to_text/chance_recall_at_5"] == pytest.approx(1 - math.comb(1495, 5) / math.comb(1500, 5))
    for way, queries in (("text_to_image", 1500), ("image_to_text", 300)):
        chance = found[f"{way}/chance_recall_at_10"]
        assert abs(found[f"{way}/recall_at_10"] - chance) < 4 * math.sqrt(chance * (1 - chance) / queries)


def test_recall_equals_scikit_learns_top_k_accuracy_without_ties() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)
    links = np.random.default_rng(1).permutation(np.repeat(np.arange(40), 2))[:60]
    found = retrieval.from_scores(scores, links)
    for k in (1, 5, 10):
        expected = metrics.top_k_accuracy_score(links, scores, k=k, labels=np.arange(40))
        assert found[f"text_to_image/recall_at_{k}"] == pytest.approx(expected)


def test_the_average_recall_is_the_mean_of_six_figures() -> None:
    six = {f"{way}/recall_at_{k}": value for (way, k), value in zip(
        itertools.product(("image_to_text", "text_to_image"), (1, 5, 10)), (0.1, 0.2, 0.4, 0.3, 0.5, 0.9), strict=True
    )}  # fmt: skip
    assert retrieval.average_recall({**six, "image_to_text/recall_at_50": 1.0}) == pytest.approx(0.4)
    assert retrieval.average_recall({f"en/{name}": value for name, value in six.items()}, "en/") == pytest.approx(0.4)
    with pytest.raises(retrieval.RetrievalError, match="image_to_text/recall_at_10"):
        retrieval.average_recall({name: value for name, value in six.items() if name != "image_to_text/recall_at_10"})
    found = retrieval.from_scores(_grid(20, 8), np.arange(20) % 8)
    assert retrieval.average_recall(found) == found["mean_recall"]


def test_folds_are_runs_of_images_that_are_searched_alone() -> None:
    rng = np.random.default_rng(0)
    links = rng.permutation(np.concatenate([np.arange(40), rng.integers(0, 40, 50)]))
    scores = rng.standard_normal((90, 40)).astype(np.float32)
    seen = []

    def fold(images: np.ndarray, texts: np.ndarray, of_text: np.ndarray) -> dict[str, float]:
        seen.append((images.tolist(), texts.tolist()))
        assert np.array_equal(images[of_text], links[texts])
        return retrieval.from_scores(scores[np.ix_(texts, images)], of_text)

    found = retrieval.over_folds(fold, links, 40, 5)
    assert [images for images, _ in seen] == [list(range(n, n + 8)) for n in range(0, 40, 8)]
    assert sorted(text for _, texts in seen for text in texts) == list(range(90))
    alone = [
        retrieval.from_scores(scores[links // 8 == n][:, 8 * n : 8 * n + 8], links[links // 8 == n] % 8)
        for n in range(5)
    ]
    assert found["mean_recall"] == pytest.approx(np.mean([metrics["mean_recall"] for metrics in alone]))
    assert found["text_to_image/candidates"] == 8
    whole = retrieval.from_scores(scores, links)
    assert retrieval.over_folds(fold, links, 40, 1) == whole
    assert found["mean_recall"] > whole["mean_recall"]  # fewer candidates are easier


def test_a_metric_that_a_fold_lacks_is_the_mean_over_the_others() -> None:
    links, languages = np.array([0, 1, 2, 2, 3]), ["en", "en", "en", "fr", "en"]
    scores = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)

    def fold(images: np.ndarray, texts: np.ndarray, of_text: np.ndarray) -> dict[str, float]:
        part = scores[np.ix_(texts, images)]
        return retrieval.scores_by_language(part, of_text, [languages[text] for text in texts], (1,))

    found = retrieval.over_folds(fold, links, 4, 2)
    french = retrieval.from_scores(scores[3:4, 2:], np.array([0]), (1,))
    assert {name: found[f"fr/{name}"] for name in french} == french
    english = [
        retrieval.from_scores(scores[rows][:, part], np.array([0, 1]), (1,))
        for rows, part in (([0, 1], slice(0, 2)), ([2, 4], slice(2, 4)))
    ]
    assert found["en/mean_recall"] == pytest.approx(np.mean([one["mean_recall"] for one in english]))


def test_the_table_of_average_recall_by_language() -> None:
    names = [f"{way}/recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    rows = {
        "en": {f"{of}/{name}": value for of, value in (("en", 0.9), ("zh", 0.7)) for name in names},
        "all": {f"en/{name}": 0.8 for name in names},
    }
    for metrics in rows.values():
        metrics |= {f"{name.split('/')[0]}/mean_recall": value for name, value in metrics.items()}
    lines = retrieval.average_table(rows, ["en", "zh"]).splitlines()
    assert [line.split() for line in lines] == [
        ["en", "zh", "mean"],
        ["en", "90.0", "70.0", "80.0"],
        ["all", "80.0", "80.0"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_faulty_scores_are_named() -> None:
    good, links = np.ones((3, 2), np.float32), np.array([0, 1, 1])
    with unchecked(), pytest.raises(retrieval.RetrievalError, match="float16 makes ties"):
        retrieval.from_scores(good.astype(np.float16), links)
    with pytest.raises(retrieval.RetrievalError, match="scores: row 0 is not finite"):
        retrieval.from_scores(good * np.nan, links)
    with unchecked(), pytest.raises(retrieval.RetrievalError, match="3 integers are needed"):
        retrieval.from_scores(good, links[:2])
    with pytest.raises(retrieval.RetrievalError, match="ks"):
        retrieval.from_scores(good, links, ())
    with pytest.raises(retrieval.RetrievalError, match="7 images cannot be split into 2"):
        retrieval.over_folds(lambda *rows: {}, np.array([0]), 7, 2)
