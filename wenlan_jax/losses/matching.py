"""Objectives on pairs of a text and an image: matching (ITM), ranking, and answers to questions (VQA).

Sums and weights as in `masked`. `valid`: rows that count; None for all of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from wenlan_jax.losses.masked import WeightedSum, cross_entropy, summed
from wenlan_jax.models.arrays import Array


def match_cross_entropy(
    logits: Float[Array, "batch 2"], match: Int[Array, " batch"], valid: Bool[Array, " batch"] | None = None
) -> WeightedSum:
    """Computes the loss of image-text matching (ITM): the cross entropy of `match`.

    Args:
        logits: of the two classes; class 1 says that text and image belong together.
        match: 1 where text and image belong together, else 0.
        valid: which rows count; None for all of them.

    Returns:
        The sum over the rows, and their number as the weight.
    """
    return summed(cross_entropy(logits, match), valid)


def match_accuracy(
    logits: Float[Array, "batch 2"], match: Int[Array, " batch"], valid: Bool[Array, " batch"] | None = None
) -> WeightedSum:
    """Counts the pairs whose class is predicted right.

    Args:
        logits: of the two classes; class 1 says that text and image belong together.
        match: 1 where text and image belong together, else 0.
        valid: which rows count; None for all of them.

    Returns:
        The number of pairs predicted right, and the number of rows as the weight.
    """
    return summed((jnp.argmax(logits, axis=-1) == match).astype(jnp.float32), valid)


def ranking_hinge(
    positive: Float[Array, " batch"],
    negative: Float[Array, "batch negatives"],
    margin: float,
    valid: Bool[Array, " batch"] | None = None,
) -> WeightedSum:
    """Computes UNITER's loss for fine-tuning on retrieval: max(0, margin + s(negative) - s(positive)).

    `s` is the logistic function. Each row's positive is compared with its own negatives.

    Args:
        positive: scores of the rank head for the pairs that belong together.
        negative: scores of the rank head for the negatives of each row.
        margin: between scores after the logistic function, so below 1.
        valid: which rows count; None for all of them.

    Returns:
        The sum over the comparisons, and their number as the weight.
    """
    own, other = (jax.nn.sigmoid(scores.astype(jnp.float32)) for scores in (positive[:, None], negative))
    violations = jnp.maximum(0.0, margin + other - own)
    return summed(violations, None if valid is None else jnp.broadcast_to(valid[:, None], violations.shape))


def hardest(scores: Float[Array, "batch candidates"], k: int) -> Int[Array, "batch k"]:
    """Picks the `k` candidates of each row that score highest, best first.

    No gradient flows through the choice.

    Args:
        scores: one score a candidate. The positive must not be among the candidates.
        k: how many to pick.

    Returns:
        The indices of the candidates.

    Raises:
        ValueError: if there are fewer than `k` candidates, or `k` is below 1.
    """
    if not 0 < k <= scores.shape[-1]:
        raise ValueError(f"hardest: {k} of {scores.shape[-1]} candidates cannot be chosen; draw more or choose fewer.")
    return jax.lax.top_k(jax.lax.stop_gradient(scores), k)[1]


def answer_cross_entropy(
    logits: Float[Array, "batch answers"],
    targets: Float[Array, "batch answers"],
    valid: Bool[Array, " batch"] | None = None,
) -> WeightedSum:
    """Computes the loss of visual question answering (VQA): binary cross entropy of every answer with its soft score.

    Args:
        logits: one logit an answer.
        targets: the soft score of each answer, in [0, 1].
        valid: which questions count; None for all of them.

    Returns:
        The sum over answers and questions, and the number of questions as the weight.
    """
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    # log(1 + exp(-|x|)) + max(x, 0) - x t, which never overflows.
    losses = jax.nn.softplus(-jnp.abs(logits)) + jnp.maximum(logits, 0.0) - logits * targets
    return summed(jnp.sum(losses, axis=-1), valid)


def answer_accuracy(
    logits: Float[Array, "batch answers"],
    targets: Float[Array, "batch answers"],
    valid: Bool[Array, " batch"] | None = None,
) -> WeightedSum:
    """Sums the soft scores of the answers with the highest logits.

    Args:
        logits: one logit an answer.
        targets: the soft score of each answer, in [0, 1].
        valid: which questions count; None for all of them.

    Returns:
        The sum of the scores, and the number of questions as the weight.
    """
    best = jnp.argmax(logits, axis=-1)
    return summed(jnp.take_along_axis(targets.astype(jnp.float32), best[:, None], axis=-1)[:, 0], valid)
