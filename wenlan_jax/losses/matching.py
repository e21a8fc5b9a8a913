"""Objectives on pairs of a text and a picture: matching (ITM), ranking, and answers to questions (VQA).

Sums and weights as in `masked`. `valid`: rows that count; None for all of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from wenlan_jax.losses.masked import Summed, cross_entropy, summed
from wenlan_jax.models.arrays import Array


def match_cross_entropy(
    logits: Float[Array, "batch 2"], match: Int[Array, " batch"], valid: Bool[Array, " batch"] | None = None
) -> Summed:
    """ITM: cross entropy of `match`, 1 where text and picture belong together; weight: rows."""
    return summed(cross_entropy(logits, match), valid)


def match_accuracy(
    logits: Float[Array, "batch 2"], match: Int[Array, " batch"], valid: Bool[Array, " batch"] | None = None
) -> Summed:
    """How many pairs are told right."""
    return summed((jnp.argmax(logits, axis=-1) == match).astype(jnp.float32), valid)


def ranking_hinge(
    positive: Float[Array, " batch"],
    negative: Float[Array, "batch negatives"],
    margin: float,
    valid: Bool[Array, " batch"] | None = None,
) -> Summed:
    """UNITER's fine-tuning for retrieval: max(0, margin + s(negative) - s(positive)), s the logistic function.

    Scores are those of the rank head, each row's positive against its own negatives; weight: comparisons.
    """
    own, other = (jax.nn.sigmoid(scores.astype(jnp.float32)) for scores in (positive[:, None], negative))
    violations = jnp.maximum(0.0, margin + other - own)
    return summed(violations, None if valid is None else jnp.broadcast_to(valid[:, None], violations.shape))


def hardest(scores: Float[Array, "batch candidates"], k: int) -> Int[Array, "batch k"]:
    """Which `k` candidates of each row score highest, best first. The positive must not be among the candidates.

    Raises ValueError if there are fewer than `k`.
    """
    if not 0 < k <= scores.shape[-1]:
        raise ValueError(f"hardest: {k} of {scores.shape[-1]} candidates cannot be chosen; draw more or choose fewer.")
    return jax.lax.top_k(jax.lax.stop_gradient(scores), k)[1]


def answer_cross_entropy(
    logits: Float[Array, "batch answers"],
    targets: Float[Array, "batch answers"],
    valid: Bool[Array, " batch"] | None = None,
) -> Summed:
    """VQA: binary cross entropy of every answer with its soft score, summed over answers; weight: questions."""
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    # log(1 + exp(-|x|)) + max(x, 0) - x t, which never overflows.
    losses = jax.nn.softplus(-jnp.abs(logits)) + jnp.maximum(logits, 0.0) - logits * targets
    return summed(jnp.sum(losses, axis=-1), valid)


def answer_accuracy(
    logits: Float[Array, "batch answers"],
    targets: Float[Array, "batch answers"],
    valid: Bool[Array, " batch"] | None = None,
) -> Summed:
    """The soft score of the answer with the highest logit; weight: questions."""
    best = jnp.argmax(logits, axis=-1)
    return summed(jnp.take_along_axis(targets.astype(jnp.float32), best[:, None], axis=-1)[:, 0], valid)
