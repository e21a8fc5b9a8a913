"""Matching, ranking and answering against PyTorch's losses and plain NumPy."""

from __future__ import annotations

import jax
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch.nn import functional as F  # noqa: N812, the usual name

from wenlan_jax.losses import matching

BATCH, ANSWERS = 6, 9
VALID = np.array([1, 1, 0, 1, 0, 1], bool)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def soft_scores() -> np.ndarray:
    """Targets as of ten annotators; the first question has none of the known answers."""
    scores = np.random.default_rng(1).choice([0, 0, 0, 0.3, 0.6, 1.0], (BATCH, ANSWERS)).astype(np.float32)
    scores[0] = 0
    return scores


def test_matching_is_cross_entropy_over_two_classes():
    logits, match = normal(BATCH, 2), np.array([1, 0, 1, 1, 0, 0])
    tensor = torch.tensor(logits, requires_grad=True)
    theirs = F.cross_entropy(tensor, torch.tensor(match), reduction="sum")
    theirs.backward()
    value, weight = matching.match_cross_entropy(logits, match)
    gradient = jax.grad(lambda x: matching.match_cross_entropy(x, match).total)(logits)
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-5)
    assert float(weight) == BATCH
    np.testing.assert_allclose(gradient, tensor.grad, atol=1e-6)


def test_class_1_is_a_match():
    logits = np.array([[-9.0, 9.0], [9.0, -9.0]], np.float32)
    assert float(matching.match_cross_entropy(logits, np.array([1, 0])).total) < 1e-6
    right = matching.match_accuracy(logits, np.array([1, 1]))
    assert (float(right.total), float(right.weight)) == (1.0, 2.0)


def test_hinge_compares_logistic_scores_with_a_margin():
    positive, negative = normal(BATCH), normal(BATCH, 3, seed=1)

    def theirs(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.clamp(0.2 + torch.sigmoid(other) - torch.sigmoid(own).unsqueeze(1), min=0).mean()

    own, other = (torch.tensor(x, requires_grad=True) for x in (positive, negative))
    expected = theirs(own, other)
    expected.backward()

    def ours(own: jax.Array, other: jax.Array) -> jax.Array:
        loss = matching.ranking_hinge(own, other, 0.2)
        return loss.total / loss.weight

    value, gradients = jax.value_and_grad(ours, argnums=(0, 1))(positive, negative)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    for mine, tensor in zip(gradients, (own, other), strict=True):
        np.testing.assert_allclose(mine, tensor.grad, atol=1e-6)


def test_pairs_beyond_the_margin_cost_nothing():
    apart = np.log(np.array([0.7 / 0.3, 0.5 / 0.5]))  # logistic scores .7 and .5
    loss = matching.ranking_hinge(apart[:1], apart[None, 1:], 0.19)
    assert float(loss.total) == 0.0
    np.testing.assert_allclose(matching.ranking_hinge(apart[:1], apart[None, 1:], 0.3).total, 0.1, atol=1e-6)


def test_the_hardest_are_the_highest_in_order():
    scores = normal(BATCH, 12)
    chosen = matching.hardest(scores, 4)
    np.testing.assert_array_equal(chosen, np.argsort(-scores, axis=1)[:, :4])
    with pytest.raises(ValueError, match="13 of 12 candidates"):
        matching.hardest(scores, 13)


@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_answers_are_binary_cross_entropy_summed_over_answers(scale: float):
    logits, targets = scale * normal(BATCH, ANSWERS), soft_scores()
    tensor = torch.tensor(logits, requires_grad=True)
    expected = F.binary_cross_entropy_with_logits(tensor, torch.tensor(targets)) * ANSWERS  # UNITER's mean times N
    expected.backward()

    def ours(x: jax.Array) -> jax.Array:
        loss = matching.answer_cross_entropy(x, targets)
        return loss.total / loss.weight

    value, gradient = jax.value_and_grad(ours)(logits)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, tensor.grad, atol=1e-6)


def test_an_answer_scores_what_its_target_says():
    targets = soft_scores()
    logits = normal(BATCH, ANSWERS)
    found = matching.answer_accuracy(logits, targets)
    expected = [targets[row, best] for row, best in enumerate(logits.argmax(1))]
    np.testing.assert_allclose(found.total, np.sum(expected), rtol=1e-6)
    assert float(found.weight) == BATCH and expected[0] == 0


def test_rows_that_do_not_count_are_left_out():
    pairs, match = normal(BATCH, 2), np.array([1, 0, 1, 1, 0, 0])
    scores, others, targets = normal(BATCH), normal(BATCH, 3, seed=1), soft_scores()
    logits = normal(BATCH, ANSWERS)
    calls = (
        (matching.match_cross_entropy, (pairs, match)),
        (matching.match_accuracy, (pairs, match)),
        (lambda a, b, valid: matching.ranking_hinge(a, b, 0.2, valid), (scores, others)),
        (matching.answer_cross_entropy, (logits, targets)),
        (matching.answer_accuracy, (logits, targets)),
    )
    for call, given in calls:
        some, rest = call(*given, VALID), call(*(x[VALID] for x in given), None)
        np.testing.assert_allclose(some.total, rest.total, rtol=1e-6)
        assert float(some.weight) == float(rest.weight) > 0
