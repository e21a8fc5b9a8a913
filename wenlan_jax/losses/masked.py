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


class Summed(NamedTuple):
    """A sum over examples, and what to divide it by for their mean (0 where there were none); float32."""

    total: Float[Array, ""]
    weight: Float[Array, ""]


def summed(values: Float[Array, "*rows"], counts: Bool[Array, "*rows"] | None = None) -> Summed:
    """The sum of the values that count, and their number. `counts`: None for all of them."""
    if counts is None:
        return Summed(jnp.sum(values, dtype=jnp.float32), jnp.float32(values.size))
    # Not a product: what does not count may be infinite, and so may its gradient.
    return Summed(jnp.sum(jnp.where(counts, values, 0.0), dtype=jnp.float32), jnp.sum(counts, dtype=jnp.float32))


def cross_entropy(logits: Float[Array, "*rows classes"], labels: Int[Array, "*rows"]) -> Float[Array, "*rows"]:
    """-log softmax of each row at its label, float32."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def word_cross_entropy(
    logits: Float[Array, "batch places vocabulary"],
    ids: Int[Array, "batch places"],
    valid: Bool[Array, "batch places"],
) -> Summed:
    """MLM: cross entropy of the original words at the masked places that are `valid`; weight: their number."""
    return summed(cross_entropy(logits, ids), valid)


def word_accuracy(
    logits: Float[Array, "batch places vocabulary"],
    ids: Int[Array, "batch places"],
    valid: Bool[Array, "batch places"],
) -> Summed:
    """How many of the masked words have the highest logit."""
    return summed((jnp.argmax(logits, axis=-1) == ids).astype(jnp.float32), valid)


def feature_squared_error(
    predicted: Float[Array, "batch regions feature"],
    features: Float[Array, "batch regions feature"],
    masked: Bool[Array, "batch regions"],
) -> Summed:
    """MRFR: squared error against the original features; weight: masked regions times numbers of a feature."""
    squares = jnp.square(predicted.astype(jnp.float32) - features.astype(jnp.float32))
    total, regions = summed(jnp.sum(squares, axis=-1), masked)
    return Summed(total, regions * features.shape[-1])


def class_divergence(
    logits: Float[Array, "batch regions classes"],
    classes: Float[Array, "batch regions classes"],
    masked: Bool[Array, "batch regions"],
    reduction: Reduction,
) -> Summed:
    """MRC: KL divergence from the prediction to the detector's distribution `classes`, background included.

    Classes of probability 0 add nothing. reduction: the weight is the number of masked regions (`batchmean`), or that
    times the classes (`elementwise`), which is UNITER's code: a loss, and a gradient, 1601 times smaller.
    Raises ValueError for another reduction.
    """
    if reduction not in ("elementwise", "batchmean"):
        raise ValueError(f"class_divergence: reduction must be 'elementwise' or 'batchmean', not {reduction!r}.")
    target = classes.astype(jnp.float32)
    log_target = jnp.log(jnp.where(target > 0, target, 1.0))
    predicted = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    total, regions = summed(jnp.sum(target * (log_target - predicted), axis=-1), masked)
    return Summed(total, regions * (classes.shape[-1] if reduction == "elementwise" else 1))


def best_class(classes: Float[Array, "*regions classes"]) -> Int[Array, "*regions"]:
    """The class of highest probability that is not the background."""
    return jnp.argmax(classes[..., 1:], axis=-1) + 1


def class_cross_entropy(
    logits: Float[Array, "batch regions classes"],
    classes: Float[Array, "batch regions classes"],
    masked: Bool[Array, "batch regions"],
) -> Summed:
    """MRC with hard labels: cross entropy of `best_class` among all classes; weight: masked regions."""
    return summed(cross_entropy(logits, best_class(classes)), masked)
