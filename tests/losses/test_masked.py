"""The masked objectives against PyTorch's own losses, and what their sums and weights promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked

pytest.importorskip("torch")

import torch
from torch.nn import functional as F  # noqa: N812, the usual name

from wenlan_jax.losses import masked

BATCH, REGIONS, CLASSES, FEATURES = 4, 6, 11, 5
MASKED = np.random.default_rng(1).random((BATCH, REGIONS)) < 0.4


def logits(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=3.0, size=shape).astype(np.float32)


def distributions(classes: int = CLASSES) -> np.ndarray:
    """Distributions over classes with exact zeros; some regions are certain."""
    rng = np.random.default_rng(2)
    weights = rng.random((BATCH, REGIONS, classes)) * (rng.random((BATCH, REGIONS, classes)) < 0.3)
    weights[..., 0] += 1e-3
    weights[0, :2] = np.eye(classes)[3]
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def mean(loss: masked.WeightedSum) -> jax.Array:
    return loss.total / loss.weight


def compare(ours: Callable[[Any], jax.Array], theirs: Callable[[torch.Tensor], torch.Tensor], x: np.ndarray) -> None:
    """Equal values and gradients."""
    tensor = torch.tensor(x, requires_grad=True)
    expected = theirs(tensor)
    expected.backward()
    value, gradient = jax.value_and_grad(ours)(jnp.asarray(x))
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_word_cross_entropy_is_the_mean_over_valid_places():
    ids = np.random.default_rng(3).integers(0, CLASSES, (BATCH, REGIONS))
    chosen, labels = torch.tensor(MASKED), torch.tensor(ids)
    compare(
        lambda x: mean(masked.word_cross_entropy(x, ids, MASKED)),
        lambda x: F.cross_entropy(x[chosen], labels[chosen]),
        logits(BATCH, REGIONS, CLASSES),
    )
    assert float(masked.word_cross_entropy(logits(BATCH, REGIONS, CLASSES), ids, MASKED).weight) == MASKED.sum()


def test_word_accuracy_counts_the_best_logits():
    x = logits(BATCH, REGIONS, CLASSES)
    ids = np.where(np.arange(REGIONS) % 2 == 0, x.argmax(-1), x.argmin(-1))
    hits = masked.word_accuracy(x, ids, MASKED)
    assert (float(hits.total), float(hits.weight)) == (MASKED[:, ::2].sum(), MASKED.sum())


def test_feature_error_is_the_mean_over_masked_numbers():
    features = logits(BATCH, REGIONS, FEATURES, seed=4).astype(np.float16)
    chosen, target = torch.tensor(MASKED), torch.tensor(features.astype(np.float32))
    compare(
        lambda x: mean(masked.feature_squared_error(x, features, MASKED)),
        lambda x: F.mse_loss(x[chosen], target[chosen]),
        logits(BATCH, REGIONS, FEATURES),
    )


@pytest.mark.parametrize("reduction", ["elementwise", "batchmean"])
def test_divergence_equals_kl_div_with_exact_zeros(reduction: masked.Reduction):
    target = distributions()
    assert (target == 0).any() and (target.max(-1) == 1).any()
    chosen, theirs = torch.tensor(MASKED), torch.tensor(target)

    def divergence(x: torch.Tensor) -> torch.Tensor:
        elements = F.kl_div(F.log_softmax(x[chosen], -1), theirs[chosen], reduction="none")
        return elements.mean() if reduction == "elementwise" else elements.sum() / len(elements)

    compare(
        lambda x: mean(masked.class_divergence(x, target, MASKED, reduction)),
        divergence,
        logits(BATCH, REGIONS, CLASSES),
    )


def test_the_reductions_differ_by_the_number_of_classes():
    x, target = logits(BATCH, REGIONS, 1601), distributions(1601)
    each = {kind: mean(masked.class_divergence(x, target, MASKED, kind)) for kind in ("elementwise", "batchmean")}
    np.testing.assert_allclose(each["batchmean"] / each["elementwise"], 1601.0, rtol=1e-6)
    with unchecked(), pytest.raises(ValueError, match="'elementwise' or 'batchmean', not 'mean'"):
        masked.class_divergence(x, target, MASKED, "mean")  # type: ignore[arg-type]


def test_divergence_from_itself_is_zero_and_the_background_counts():
    target = distributions()
    perfect = np.log(np.maximum(target, 1e-30))
    assert abs(float(masked.class_divergence(perfect, target, MASKED, "batchmean").total)) < 1e-5
    swapped = target[..., [1, 0, *range(2, CLASSES)]]
    assert float(masked.class_divergence(perfect, swapped, MASKED, "batchmean").total) > 1e-2


def test_hard_labels_are_the_best_class_but_the_background():
    target = distributions()
    target[1, 0] = np.eye(CLASSES)[0]  # nothing but background: the first object
    target[2, 3] = 0.9 * np.eye(CLASSES)[0] + 0.1 * np.eye(CLASSES)[7]
    best = np.asarray(masked.best_class(target))
    assert best.min() >= 1 and best[2, 3] == 7 and best[0, 0] == 3
    chosen, labels = torch.tensor(MASKED), torch.tensor(best).long()
    compare(
        lambda x: mean(masked.class_cross_entropy(x, target, MASKED)),
        lambda x: F.cross_entropy(x[chosen], labels[chosen]),
        logits(BATCH, REGIONS, CLASSES),
    )


def every_loss(x: Any, rows: slice, chosen: np.ndarray) -> dict[str, masked.WeightedSum]:
    ids, target = np.random.default_rng(3).integers(0, CLASSES, (BATCH, REGIONS)), distributions()
    features = logits(BATCH, REGIONS, CLASSES, seed=4)
    x, chosen = x[rows], chosen[rows]
    return {
        "words": masked.word_cross_entropy(x, ids[rows], chosen),
        "features": masked.feature_squared_error(x, features[rows], chosen),
        "kl": masked.class_divergence(x, target[rows], chosen, "elementwise"),
        "hard": masked.class_cross_entropy(x, target[rows], chosen),
    }


def test_sums_and_weights_of_parts_add_up_to_those_of_the_whole():
    """Parts of unequal weight: the mean of their means, as in UNITER's code, would be another number."""
    x = logits(BATCH, REGIONS, CLASSES)
    whole, parts = every_loss(x, slice(None), MASKED), [every_loss(x, slice(i, i + 2), MASKED) for i in (0, 2)]
    assert MASKED[:2].sum() != MASKED[2:].sum()
    for name, loss in whole.items():
        np.testing.assert_allclose(sum(part[name].total for part in parts), loss.total, rtol=1e-5)
        assert float(sum(part[name].weight for part in parts)) == float(loss.weight)
        means = [float(mean(part[name])) for part in parts]
        assert abs(np.mean(means) - float(mean(loss))) > 1e-3


def test_nothing_masked_has_no_weight_and_finite_gradients():
    nothing = np.zeros_like(MASKED)
    huge = np.full((BATCH, REGIONS, CLASSES), 1e30, np.float32)
    for name, loss in every_loss(huge, slice(None), nothing).items():
        assert (float(loss.total), float(loss.weight)) == (0.0, 0.0), name
    gradient = jax.grad(lambda x: sum(loss.total for loss in every_loss(x, slice(None), nothing).values()))(huge)
    np.testing.assert_array_equal(gradient, 0.0)


def test_half_precision_logits_are_summed_in_float32():
    x = jnp.asarray(logits(BATCH, REGIONS, CLASSES), jnp.bfloat16)
    for half, full in zip(
        *(every_loss(y, slice(None), MASKED).values() for y in (x, x.astype(jnp.float32))), strict=True
    ):
        assert half.total.dtype == half.weight.dtype == jnp.float32
        np.testing.assert_allclose(half.total, full.total, rtol=1e-6)
