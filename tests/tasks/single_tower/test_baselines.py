"""Constant guesses of the single tower's objectives: equal to closed forms, and never beaten by another constant."""

from __future__ import annotations

import numpy as np
import pytest

from wenlan_jax.tasks.single_tower import baselines

RNG = np.random.default_rng(0)
MASKED = RNG.random((3, 5, 4)) < 0.5
FEATURES = RNG.normal(size=(3, 5, 4, 6)).astype(np.float16)
CLASSES = RNG.dirichlet(np.full(4, 0.3), size=(3, 5, 4)).astype(np.float16)


def shown(objective: str) -> baselines.Constant:
    """The baseline after three batches."""
    constant = baselines.of(objective)
    assert constant is not None
    for number in range(3):
        constant.add(
            {
                "match": np.array([1, 0, 1, 1, 0]),
                "valid": np.array([True, True, True, False, number == 0]),
                "masked_ids": np.array([[7, 2], [2, 3]]),
                "masked_valid": np.array([[True, True], [True, number == 2]]),
                "region_masked": MASKED[number],
                "region_features": FEATURES[number],
                "region_classes": CLASSES[number],
            }
        )
    return constant


def test_matching_is_guessed_by_its_commoner_class() -> None:
    constant = shown("itm")  # six matches and four others count
    assert constant.accuracy() == pytest.approx(0.6)
    assert constant.loss() == pytest.approx(-(0.6 * np.log(0.6) + 0.4 * np.log(0.4)))


def test_words_are_guessed_by_their_frequencies() -> None:
    shares = np.array([3, 6, 1]) / 10  # of the words 7, 2 and 3
    assert shown("mlm").accuracy() == pytest.approx(0.6)
    assert shown("mlm").loss() == pytest.approx(-np.sum(shares * np.log(shares)))


def test_features_are_guessed_by_their_mean() -> None:
    rows = FEATURES[MASKED].astype(np.float64)
    assert shown("mrfr").loss() == pytest.approx(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean())
    assert shown("mrfr").accuracy() is None


def test_classes_are_guessed_by_their_mean_distribution() -> None:
    rows = CLASSES[MASKED].astype(np.float64)

    def divergence(guess: np.ndarray) -> float:
        return float(np.mean(np.sum(rows * (np.log(np.maximum(rows, 1e-300)) - np.log(guess)), axis=1)))

    found = shown("mrc")
    assert found.loss() == pytest.approx(divergence(rows.mean(axis=0)), rel=1e-6)
    assert found.loss() <= divergence(np.full(4, 0.25))
    best = rows[:, 1:].argmax(axis=1)
    assert found.accuracy() == pytest.approx(np.bincount(best).max() / len(best))


def test_other_objectives_have_none() -> None:
    assert baselines.of("rank") is None
