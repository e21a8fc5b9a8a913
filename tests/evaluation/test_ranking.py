"""NDCG and MAP: golden numbers, scikit-learn, and every setting by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from annotations import unchecked

from wenlan_jax.evaluation import graded_ranking

GOLDEN = [6, 0, 3, 5, 0, 2, 1]
LINEAR = graded_ranking.GradedProtocol(k=5, gain="linear", ideal="judged-list", relevant_from=3, empty="zero")


def _with(**changes: object) -> graded_ranking.GradedProtocol:
    return dataclasses.replace(LINEAR, **changes)


@pytest.mark.parametrize(("gain", "expected"), [("linear", 0.811014), ("exp", 0.910110)])
def test_golden_numbers(gain: str, expected: float) -> None:
    assert graded_ranking.ndcg(GOLDEN, GOLDEN, _with(gain=gain)) == pytest.approx(expected, abs=1e-6)


def test_discounted_gain_by_hand() -> None:
    by_hand = 6 / math.log2(2) + 0 + 3 / math.log2(4) + 5 / math.log2(5) + 0
    assert graded_ranking.discounted_gain(GOLDEN, LINEAR) == pytest.approx(by_hand)
    assert graded_ranking.discounted_gain([2, 1], _with(gain="exp")) == pytest.approx(3 + 1 / math.log2(3))


@pytest.mark.parametrize("k", [1, 3, 10, 50])
@pytest.mark.parametrize("gain", ["linear", "exp"])
def test_equals_scikit_learn(k: int, gain: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(k)
    for _ in range(20):
        grades = rng.integers(0, 7, 30)
        relevance = 2.0**grades - 1 if gain == "exp" else grades
        expected = metrics.ndcg_score(relevance[None], -np.arange(30.0)[None], k=k)
        found = graded_ranking.ndcg(grades, grades, _with(k=k, gain=gain))
        assert found == pytest.approx(expected, abs=1e-12)


def test_average_precision_equals_scikit_learn_when_nothing_is_cut() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(20):
        grades = np.append(rng.integers(0, 7, 19), 6)
        expected = metrics.average_precision_score(grades >= 3, -np.arange(20.0))
        assert graded_ranking.average_precision(grades, grades, _with(k=20)) == pytest.approx(expected, abs=1e-12)


def test_no_order_is_better_than_the_ideal_one() -> None:
    values = [graded_ranking.ndcg(order, (3, 2, 0, 1), _with(k=3)) for order in itertools.permutations((3, 2, 0, 1))]
    assert max(values) == 1.0
    assert values.count(1.0) == 1  # 3, 2, 1, 0
    assert min(values) == graded_ranking.ndcg([0, 1, 2, 3], [3, 2, 0, 1], _with(k=3))


def test_the_pool_exposes_a_system_that_finds_only_poor_results() -> None:
    poor, pool = [1, 1, 0], [6, 5, 1, 1, 0]
    assert graded_ranking.ndcg(poor, pool, LINEAR) == 1.0
    best = 6 + 5 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5)
    assert graded_ranking.ndcg(poor, pool, _with(ideal="pool")) == pytest.approx((1 + 1 / math.log2(3)) / best)


def test_results_below_the_cut_do_not_count_but_stay_in_the_ideal_list() -> None:
    assert graded_ranking.ndcg([0, 0, 6], [0, 0, 6], _with(k=2)) == 0.0
    assert graded_ranking.ndcg([6, 0, 5], [6, 0, 5], _with(k=1)) == 1.0


def test_a_query_without_gain_counts_zero_or_not() -> None:
    assert graded_ranking.ndcg([0, 0], [0, 0], LINEAR) == 0.0
    assert graded_ranking.ndcg([0, 0], [0, 0], _with(empty="skip")) is None
    assert graded_ranking.average_precision([2, 2], [2, 2], LINEAR) == 0.0
    assert graded_ranking.average_precision([2, 2], [2, 2], _with(empty="skip")) is None


def test_average_precision_by_hand() -> None:
    assert graded_ranking.average_precision([6, 0, 3, 2], [6, 0, 3, 2], LINEAR) == pytest.approx((1 + 2 / 3) / 2)
    # Three are relevant in the pool, one was not found.
    pool = _with(ideal="pool")
    assert graded_ranking.average_precision([6, 0, 3, 2], [6, 0, 3, 2, 4], pool) == pytest.approx((1 + 2 / 3) / 3)
    assert graded_ranking.average_precision([6, 5], [6, 5, 4], _with(k=2, ideal="pool")) == 1.0


def test_the_threshold_decides_what_is_relevant() -> None:
    assert graded_ranking.average_precision([2, 6], [2, 6], LINEAR) == 0.5
    assert graded_ranking.average_precision([2, 6], [2, 6], _with(relevant_from=2)) == 1.0


RANKINGS = {"q1": ["a", "b", "c"], "q2": ["d", "x"]}
JUDGED = {"q1": {"a": 0, "b": 6, "c": 3}, "q2": {"d": 5}, "q3": {"e": 4}, "q4": {"f": 0}}


def test_a_system_is_averaged_over_all_judged_queries() -> None:
    found = graded_ranking.evaluate(RANKINGS, JUDGED, _with(ideal="pool"))
    first = (6 / math.log2(3) + 3 / 2) / (6 + 3 / math.log2(3))
    assert found["ndcg"] == pytest.approx((first + 1 + 0 + 0) / 4)
    assert found["map"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 4)
    assert (found["queries"], found["ndcg_queries"], found["map_queries"]) == (4, 4, 4)
    assert found["judged"] == 4 / 5


def test_skipped_queries_leave_the_mean() -> None:
    found = graded_ranking.evaluate(RANKINGS, JUDGED, _with(ideal="pool", empty="skip"))
    assert (found["queries"], found["ndcg_queries"]) == (4, 3)  # q4 has nothing relevant, q3 was missed
    assert found["ndcg"] == pytest.approx(
        graded_ranking.evaluate(RANKINGS, JUDGED, _with(ideal="pool"))["ndcg"] * 4 / 3
    )


def test_faulty_input_is_named() -> None:
    with unchecked(), pytest.raises(graded_ranking.RankingError, match="gain: 'log'"):
        _with(gain="log")
    with pytest.raises(graded_ranking.RankingError, match="start at 1"):
        _with(k=0)
    with pytest.raises(graded_ranking.RankingError, match="whole numbers from 0"):
        graded_ranking.ndcg([1, -1], [1], LINEAR)
    with unchecked(), pytest.raises(graded_ranking.RankingError, match="whole numbers from 0"):
        graded_ranking.ndcg(np.array([0.5]), [1], LINEAR)
    with pytest.raises(graded_ranking.RankingError, match="the pool lacks"):
        graded_ranking.ndcg([6, 5], [1], _with(ideal="pool"))
    with pytest.raises(graded_ranking.RankingError, match="'q1': a result is ranked twice"):
        graded_ranking.evaluate({"q1": ["a", "a"]}, JUDGED, LINEAR)
    with pytest.raises(graded_ranking.RankingError, match="No query was judged"):
        graded_ranking.evaluate(RANKINGS, {}, LINEAR)
    with pytest.raises(graded_ranking.RankingError, match="ndcg: no query"):
        graded_ranking.evaluate({}, {"q4": {"f": 0}}, _with(empty="skip"))
