"""Objectives on what was masked: words (MLM), features of regions (MRFR), classes of regions (MRC).

Each gives a sum and a weight instead of a mean: who calls adds both up over micro-batches and devices and divides
once, so the loss does not depend on how a batch was split. (UNITER averages the means of its devices instead.) All in
float32.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from wenlan_jax.models.arrays import Array

Reduction = Literal["elementwise", "batchmean"]


class WeightedSum(NamedTuple):
    """A sum over examples, and what to divide it by for their mean.

    Attributes:
        total: the sum, float32.
        weight: the divisor, float32; 0 where there were no examples.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]


def summed(values: Float[Array, "*rows"], counts: Bool[Array, "*rows"] | None = None) -> WeightedSum:
    """Sums the values that count, and counts them.

    Args:
        values: one value an example, of any shape.
        counts: which values count; None for all of them. Values that do not count may be infinite.

    Returns:
        The sum and the number of values in it.
    """
    if counts is None:
        return WeightedSum(jnp.sum(values, dtype=jnp.float32), jnp.float32(values.size))
    # Not a product: what does not count may be infinite, and so may its gradient.
    return WeightedSum(jnp.sum(jnp.where(counts, values, 0.0), dtype=jnp.float32), jnp.sum(counts, dtype=jnp.float32))


def cross_entropy(logits: Float[Array, "*rows classes"], labels: Int[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Computes -log softmax of each row at its label, in float32.

    Args:
        logits: of any float type.
        labels: the class of each row, from 0.

    Returns:
        The cross entropy of each row.
    """
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def word_cross_entropy(
    logits: Float[Array, "batch places vocabulary"],
    ids: Int[Array, "batch places"],
    valid: Bool[Array, "batch places"],
) -> WeightedSum:
    """Computes the loss of masked language modelling (MLM): the cross entropy of the original words.

    Args:
        logits: of the vocabulary, at the masked places.
        ids: the original word ids at those places.
        valid: which places count; the others are padding.

    Returns:
        The sum over the valid places, and their number as the weight.
    """
    return summed(cross_entropy(logits, ids), valid)


def word_accuracy(
    logits: Float[Array, "batch places vocabulary"],
    ids: Int[Array, "batch places"],
    valid: Bool[Array, "batch places"],
) -> WeightedSum:
    """Counts the masked words whose logit is the highest.

    Args:
        logits: of the vocabulary, at the masked places.
        ids: the original word ids at those places.
        valid: which places count; the others are padding.

    Returns:
        The number of words predicted right, and the number of valid places as the weight.
    """
    return summed((jnp.argmax(logits, axis=-1) == ids).astype(jnp.float32), valid)


def feature_squared_error(
    predicted: Float[Array, "batch regions feature"],
    features: Float[Array, "batch regions feature"],
    masked: Bool[Array, "batch regions"],
) -> WeightedSum:
    """Computes the loss of masked region feature regression (MRFR): the squared error against the original features.

    Args:
        predicted: the predicted features.
        features: the original features.
        masked: which regions were masked; only these count.

    Returns:
        The sum of squares, and masked regions times the width of a feature as the weight.
    """
    squares = jnp.square(predicted.astype(jnp.float32) - features.astype(jnp.float32))
    total, regions = summed(jnp.sum(squares, axis=-1), masked)
    return WeightedSum(total, regions * features.shape[-1])


def class_divergence(
    logits: Float[Array, "batch regions classes"],
    classes: Float[Array, "batch regions classes"],
    masked: Bool[Array, "batch regions"],
    reduction: Reduction,
) -> WeightedSum:
    """Computes the loss of masked region classification with soft labels (MRC): KL divergence from the prediction.

    Classes of probability 0 add nothing.

    Args:
        logits: of the classes, background first.
        classes: the detector's distribution over the classes, background included.
        masked: which regions were masked; only these count.
        reduction: `batchmean` divides by the number of masked regions. `elementwise` divides by that times the number
            of classes, as UNITER's code does: a loss, and a gradient, 1601 times smaller.

    Returns:
        The sum over the masked regions, and the weight that `reduction` says.

    Raises:
        ValueError: for another reduction.
    """
    if reduction not in ("elementwise", "batchmean"):
        raise ValueError(f"class_divergence: reduction must be 'elementwise' or 'batchmean', not {reduction!r}.")
    target = classes.astype(jnp.float32)
    log_target = jnp.log(jnp.where(target > 0, target, 1.0))
    predicted = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    total, regions = summed(jnp.sum(target * (log_target - predicted), axis=-1), masked)
    return WeightedSum(total, regions * (classes.shape[-1] if reduction == "elementwise" else 1))


def best_class(classes: Float[Array, "*regions classes"]) -> Int[Array, "*regions"]:
    """Picks the most probable class of each region that is not the background.

    Args:
        classes: probabilities, background first.

    Returns:
        The index of the class, 1 or more.
    """
    return jnp.argmax(classes[..., 1:], axis=-1) + 1


def class_cross_entropy(
    logits: Float[Array, "batch regions classes"],
    classes: Float[Array, "batch regions classes"],
    masked: Bool[Array, "batch regions"],
) -> WeightedSum:
    """Computes the loss of masked region classification with hard labels (MRC): cross entropy of `best_class`.

    Args:
        logits: of the classes, background first.
        classes: the detector's distribution over the classes, background first.
        masked: which regions were masked; only these count.

    Returns:
        The sum over the masked regions, and their number as the weight.
    """
    return summed(cross_entropy(logits, best_class(classes)), masked)
