"""Statistics against closed forms, against SciPy, and against the metrics they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from wenlan_jax.evaluation import query_ranks, retrieval
from wenlan_jax.evaluation import statistics as stats


def made(seed: int = 0, images: int = 60, texts: int = 150) -> tuple[query_ranks.Ranks, dict[str, float]]:
    """Ranks of random embeddings, and the metrics of the same under the names of result.json."""
    rng = np.random.default_rng(seed)
    links = np.sort(rng.integers(0, images - 3, texts))  # the last three images have no text
    noise = rng.standard_normal((texts, 8)).astype(np.float32)
    seen = rng.standard_normal((images, 8)).astype(np.float32)
    words = seen[links] + 1.5 * noise
    languages = ["zh" if number % 3 else "en" for number in range(texts)]
    one, two = retrieval.truth_ranks(seen, words, links)
    metrics = retrieval.of_ranks(one, two, links) | retrieval.by_language(seen, words, links, languages)
    found = query_ranks.of_queries(one, two, links, languages, [str(number) for number in range(texts)])
    return found, {f"retrieval/test/{name}": value for name, value in metrics.items()}


def hits(values: np.ndarray) -> stats.Hits:
    """One query an image."""
    return stats.Hits(values[:, None].astype(float), np.ones((len(values), 1)))


@pytest.mark.parametrize(
    "name",
    ["text_to_image/recall_at_1", "image_to_text/recall_at_5", "mean_recall", "zh/text_to_image/recall_at_10"],
)
def test_hits_by_image_give_the_metric_of_the_evaluation(name: str) -> None:
    found, metrics = made()
    of = stats.hits(found, f"retrieval/test/{name}", (1, 5, 10))
    assert of is not None
    assert of.value() == pytest.approx(metrics[f"retrieval/test/{name}"], abs=1e-12)
    assert 0 < of.value() < 1


def test_metrics_that_ranks_do_not_tell_have_no_hits() -> None:
    found, _ = made()
    for name in (
        "retrieval/test/zh/image_to_text/recall_at_1",
        "retrieval/test/text_to_image/median_rank",
        "vqa/test/x",
    ):
        assert stats.hits(found, name, (1,)) is None


def test_mean_and_sample_deviation() -> None:
    assert stats.mean_and_deviation([1.0, 2.0, 4.0]) == (pytest.approx(7 / 3), pytest.approx(math.sqrt(7 / 3)))
    mean, deviation = stats.mean_and_deviation([3.0])
    assert mean == 3.0 and math.isnan(deviation)
    assert all(math.isnan(value) for value in stats.mean_and_deviation([]))


def test_equal_rows_differ_by_exactly_nothing() -> None:
    found, _ = made()
    of = stats.hits(found, "retrieval/test/mean_recall", (1, 5, 10))
    assert of is not None
    assert stats.compare([of, of], [of, of]) == stats.Interval(0.0, 0.0, 0.0)


def test_the_interval_has_the_width_of_the_mean_of_bernoullis() -> None:
    """One row always misses: the difference is a mean of n coins, of standard error sqrt(p (1 - p) / n)."""
    n, p = 2000, 0.3
    values = np.arange(n) < p * n
    interval = stats.compare([hits(values)], [hits(np.zeros(n))])
    error = math.sqrt(p * (1 - p) / n)
    assert interval.difference == pytest.approx(p)
    assert interval.low == pytest.approx(p - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(p + 1.96 * error, abs=0.1 * error)


def test_pairing_narrows_the_interval() -> None:
    """Two rows that agree on most queries: the variance is that of the differences, not of the rows."""
    rng = np.random.default_rng(0)
    one = rng.random(1000) < 0.5
    two = one ^ (rng.random(1000) < 0.02)
    interval = stats.compare([hits(one)], [hits(two)])
    difference = one.astype(float) - two
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * difference.std() / math.sqrt(1000), rel=0.1)
    assert interval.high - interval.low < 0.3 * 2 * 1.96 * math.sqrt(2 * 0.25 / 1000)


def test_texts_of_one_image_are_not_independent() -> None:
    """Five texts an image that are all found or all missed tell as much as one."""
    values = np.arange(400) % 5 < 2
    one = stats.compare([hits(values)], [hits(np.zeros(400))])
    five = stats.Hits(5.0 * values[:, None], np.full((400, 1), 5.0))
    none = stats.Hits(np.zeros((400, 1)), np.full((400, 1), 5.0))
    assert stats.compare([five], [none]) == one


def test_the_interval_agrees_with_scipys() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.random(300) < 0.6, rng.random(300) < 0.5
    ours = stats.compare([hits(one)], [hits(two)])
    theirs = scipy.stats.bootstrap(
        (one.astype(float) - two,), np.mean, n_resamples=10_000, method="percentile", rng=rng
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.high, abs=0.004)


def test_a_ratio_with_unequal_numbers_of_texts_agrees_with_scipys() -> None:
    rng = np.random.default_rng(1)
    queries = rng.integers(1, 6, 300).astype(float)
    sums = rng.binomial(queries.astype(int), 0.4).astype(float)
    ours = stats.bootstrap(sums[:, None], queries[:, None], 10_000)

    def ratio(s: np.ndarray, q: np.ndarray, axis: int = -1) -> np.ndarray:
        return s.sum(axis=axis) / q.sum(axis=axis)

    theirs = scipy.stats.bootstrap(
        (sums, queries), ratio, n_resamples=10_000, method="percentile", paired=True, rng=rng
    ).confidence_interval
    assert ours.difference == pytest.approx(sums.sum() / queries.sum())
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=0.004), pytest.approx(theirs.high, abs=0.004))


def test_it_covers_the_true_difference_as_often_as_it_says() -> None:
    """400 draws of 200 images of two correlated rows; 95% give or take three standard errors of the share."""
    rng, covered = np.random.default_rng(2), 0
    for _ in range(400):
        hard = rng.random(200)
        one, two = rng.random(200) < 0.3 + 0.5 * hard, rng.random(200) < 0.2 + 0.5 * hard
        interval = stats.bootstrap((one.astype(float) - two)[:, None], np.ones((200, 1)), 1000)
        covered += interval.low <= 0.1 <= interval.high
    assert abs(covered / 400 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 400)


def test_hits_are_averaged_over_seeds() -> None:
    one, two = hits(np.array([1, 0, 0, 1])), hits(np.array([1, 1, 0, 1]))
    none = hits(np.zeros(4))
    assert stats.compare([one, two], [none, none]).difference == pytest.approx((0.5 + 0.75) / 2)
    assert stats.compare([none], [one, two]).difference == pytest.approx(-0.625)


def test_the_same_runs_give_the_same_interval() -> None:
    rng = np.random.default_rng(3)
    one, two = hits(rng.random(100) < 0.5), hits(rng.random(100) < 0.5)
    assert stats.compare([one], [two]) == stats.compare([one], [two])


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).random((50, 1))
    whole = stats.bootstrap(values, np.ones((50, 1)), 501)
    monkeypatch.setattr(stats, "_BLOCK", 350)
    parts = stats.bootstrap(values, np.ones((50, 1)), 501)
    assert (parts.low, parts.high) == (pytest.approx(whole.low, abs=1e-12), pytest.approx(whole.high, abs=1e-12))


def test_other_queries_are_refused() -> None:
    with pytest.raises(stats.NotPairedError, match="same queries"):
        stats.compare([hits(np.ones(4))], [hits(np.ones(5))])
