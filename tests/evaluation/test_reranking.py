"""The cascade: only the best candidates are scored, the rest keeps its place, costs are counted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from annotations import unchecked

from wenlan_jax.evaluation import graded_ranking, reranking, retrieval

PROTOCOL = graded_ranking.GradedProtocol(k=10, gain="linear", ideal="pool", relevant_from=1, empty="zero")


def _orders(queries: int = 7, candidates: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(candidates) for _ in range(queries)])


@dataclasses.dataclass
class _Scorer:
    """A table of scores that remembers what it was asked, and a clock that it alone moves."""

    scores: np.ndarray
    now: float = 0.0
    asked: list[list[tuple[int, int]]] = dataclasses.field(default_factory=list)

    def __call__(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        self.asked.append(list(zip(queries.tolist(), rows.tolist(), strict=True)))
        self.now += len(rows)  # a second a pair
        return self.scores[queries, rows]

    def clock(self) -> float:
        return self.now


def _scorer(queries: int = 7, candidates: int = 20) -> _Scorer:
    return _Scorer(np.random.default_rng(1).standard_normal((queries, candidates)).astype(np.float32))


@pytest.mark.parametrize("batch_size", [1, 4, 5, 64])
@pytest.mark.parametrize("top_k", [1, 5, 20])
def test_the_best_are_sorted_by_score_and_the_rest_stays(batch_size: int, top_k: int) -> None:
    orders, scorer = _orders(), _scorer()
    found = reranking.rerank(orders, top_k, scorer, batch_size, scorer.clock)
    for query, (old, new) in enumerate(zip(orders, found.orders, strict=True)):
        assert new[:top_k].tolist() == sorted(old[:top_k], key=lambda row: -scorer.scores[query, row])
        assert new[top_k:].tolist() == old[top_k:].tolist()


@pytest.mark.parametrize("batch_size", [1, 4, 5, 64])
def test_only_the_best_are_scored_each_once(batch_size: int) -> None:
    orders, scorer = _orders(), _scorer()
    found = reranking.rerank(orders, 5, scorer, batch_size, scorer.clock)
    asked = [pair for batch in scorer.asked for pair in batch]
    assert asked == [(query, row) for query, line in enumerate(orders.tolist()) for row in line[:5]]
    assert found.pairs == len(asked) == 35
    assert [len(batch) for batch in scorer.asked[:-1]] == [batch_size] * (len(scorer.asked) - 1)


def test_a_depth_beyond_the_candidates_scores_them_all() -> None:
    scorer = _scorer()
    found = reranking.rerank(_orders(), 99, scorer, 64, scorer.clock)
    assert np.array_equal(found.orders, np.argsort(-scorer.scores, axis=1))
    assert found.pairs == 7 * 20


def test_depth_zero_changes_and_scores_nothing() -> None:
    orders, scorer = _orders(), _scorer()
    found = reranking.rerank(orders, 0, scorer, 4, scorer.clock)
    assert np.array_equal(found.orders, orders)
    assert (found.pairs, scorer.asked, found.seconds.sum()) == (0, [], 0)


def test_equal_scores_keep_the_first_order() -> None:
    orders = _orders()
    found = reranking.rerank(orders, 10, lambda queries, rows: np.zeros(len(rows), np.float32), 8, lambda: 0.0)
    assert np.array_equal(found.orders, orders)


@pytest.mark.parametrize("batch_size", [3, 5, 64])
def test_seconds_of_a_batch_are_divided_by_pairs(batch_size: int) -> None:
    scorer = _scorer()
    found = reranking.rerank(_orders(), 5, scorer, batch_size, scorer.clock)
    np.testing.assert_allclose(found.seconds, 5.0)


def test_a_query_with_a_slow_batch_of_its_own_takes_longer() -> None:
    now = 0.0

    def scorer(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        nonlocal now
        now += 9.0 if queries[0] == 2 else 1.0
        return np.ones(len(rows), np.float32)

    found = reranking.rerank(_orders(), 5, scorer, 5, lambda: now)
    assert found.seconds.tolist() == [1, 1, 9, 1, 1, 1, 1]


def test_recall_beyond_the_depth_stays_and_below_it_is_bounded() -> None:
    scorer, links = _scorer(), np.random.default_rng(2).integers(0, 20, 7)
    judged = reranking.text_judgements(links)
    ks = (1, 3, 6, 12, 20)
    args = (judged, PROTOCOL, ks, 8, scorer.clock)
    rows = reranking.against_depth(_orders(), (3, 6, 12), scorer, *args)
    assert [row.top_k for row in rows] == [0, 3, 6, 12]
    for row in rows[1:]:
        for k in ks:
            if k >= row.top_k:
                assert row.recall[k] == rows[0].recall[k]
            else:
                assert row.recall[k] <= row.bound
        assert row.bound == rows[0].recall[row.top_k]
        assert (row.pairs_per_query, row.seconds_per_query) == (row.top_k, row.top_k)


def test_a_perfect_scorer_reaches_the_bound_at_one() -> None:
    orders, links = _orders(), np.random.default_rng(2).integers(0, 20, 7)
    scores = np.zeros((7, 20), np.float32)
    scores[np.arange(7), links] = 1
    scorer = _Scorer(scores)
    judged = reranking.text_judgements(links)
    for row in reranking.against_depth(orders, (5, 20), scorer, judged, PROTOCOL, (1,), 8, scorer.clock)[1:]:
        assert row.recall[1] == row.bound
    assert row.recall[1] == row.ndcg == 1.0


def test_all_candidates_rescored_equal_retrieval_from_the_scores() -> None:
    rng = np.random.default_rng(3)
    links = rng.integers(0, 12, 30)
    scores = rng.standard_normal((30, 12)).astype(np.float32)
    orders = np.stack([rng.permutation(12) for _ in range(30)])
    scorer = _Scorer(scores)
    judged = reranking.text_judgements(links)
    row = reranking.against_depth(orders, (12,), scorer, judged, PROTOCOL, (1, 5, 10), 50, scorer.clock)[1]
    expected = retrieval.from_scores(scores, links)
    assert [row.recall[k] for k in (1, 5, 10)] == [expected[f"text_to_image/recall_at_{k}"] for k in (1, 5, 10)]


def test_images_hit_with_any_of_their_texts() -> None:
    links = np.array([0, 0, 1, 0])
    judged = reranking.image_judgements(links, 3)
    assert judged == [{0: 1, 1: 1, 3: 1}, {2: 1}, {}]
    orders = np.array([[3, 2, 1, 0], [0, 1, 3, 2], [0, 1, 2, 3]])
    skip = dataclasses.replace(PROTOCOL, empty="skip")
    row = reranking.against_depth(orders, (), _scorer(), judged, skip, (1, 4), 4, lambda: 0.0)[0]
    assert (row.recall[1], row.recall[4]) == (1 / 3, 2 / 3)
    first = (1 + 1 / np.log2(4) + 1 / np.log2(5)) / (1 + 1 / np.log2(3) + 1 / np.log2(4))
    assert row.ndcg == pytest.approx((first + 1 / np.log2(5)) / 2)


def test_graded_judgements_are_used_by_row() -> None:
    orders = np.array([[4, 2, 7]])
    row = reranking.against_depth(orders, (), _scorer(), [{2: 6, 7: 3, 9: 6}], PROTOCOL, (1,), 4, lambda: 0.0)[0]
    expected = (6 / np.log2(3) + 3 / 2) / (6 + 6 / np.log2(3) + 3 / 2)
    assert row.ndcg == pytest.approx(expected)


def test_the_table_has_a_line_a_depth() -> None:
    rows = [
        reranking.CascadeRow(0, {1: 0.5, 10: 0.75}, 0.61234, None, 0, 0.0),
        reranking.CascadeRow(30, {1: 0.625, 10: 0.75}, 0.7, 0.8, 30, 0.0125),
    ]
    lines = reranking.table(rows, ndcg_at=10).splitlines()
    assert lines[0].split() == ["re-ranked", "recall@1", "recall@10", "NDCG@10", "bound", "pairs", "ms/query"]
    assert lines[1].split() == ["none", "50.0%", "75.0%", "0.6123", "0", "0.00"]
    assert lines[2].split() == ["best", "30", "62.5%", "75.0%", "0.7000", "80.0%", "30", "12.50"]
    assert len({len(line) for line in lines}) == 1


def test_faulty_input_is_named() -> None:
    scorer = _scorer()
    with pytest.raises(reranking.RerankingError, match="query 1 has a candidate twice"):
        reranking.rerank(np.array([[0, 1], [1, 1]]), 2, scorer, 4, scorer.clock)
    with pytest.raises(reranking.RerankingError, match="query 0 has a candidate twice, or a negative"):
        reranking.rerank(np.array([[-1, 1]]), 2, scorer, 4, scorer.clock)
    with unchecked(), pytest.raises(reranking.RerankingError, match="whole numbers"):
        reranking.rerank(np.array([[0.0, 1.0]]), 2, scorer, 4, scorer.clock)
    with pytest.raises(reranking.RerankingError, match="top_k"):
        reranking.rerank(_orders(), -1, scorer, 4, scorer.clock)
    with pytest.raises(reranking.RerankingError, match="batch_size"):
        reranking.rerank(_orders(), 2, scorer, 0, scorer.clock)
    with pytest.raises(reranking.RerankingError, match="not finite"):
        reranking.rerank(_orders(), 2, lambda queries, rows: np.full(len(rows), np.nan), 4, scorer.clock)
    with pytest.raises(reranking.RerankingError, match="for 4 pairs"):
        reranking.rerank(_orders(), 2, lambda queries, rows: np.ones(3), 4, scorer.clock)
    with pytest.raises(reranking.RerankingError, match="7 queries have 1 judgements"):
        reranking.against_depth(_orders(), (2,), scorer, [{}], PROTOCOL, (1,), 4, scorer.clock)
    skip = dataclasses.replace(PROTOCOL, empty="skip")
    with pytest.raises(reranking.RerankingError, match="No query has a relevant"):
        reranking.against_depth(_orders(1), (), scorer, [{}], skip, (1,), 4, scorer.clock)
