"""From the class output of a detector to scores, labels and the distribution that records hold: background first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int

from wenlan_jax.prepare.regions.detections import Scores

ACTIVATIONS = ("none", "softmax", "sigmoid")

Distribution = Float64[np.ndarray, "boxes classes"]


def probabilities(outputs: Float[np.ndarray, "boxes columns"], activation: str) -> Distribution:
    """Applies one of ACTIVATIONS to the class output of a detector."""
    values = outputs.astype(np.float64)
    if activation == "sigmoid":
        return 0.5 * (1.0 + np.tanh(0.5 * values))  # the same, without overflow
    if activation == "softmax":
        raised = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))
    return values


def distribution(
    given: Float[np.ndarray, "boxes columns"], background: int | None
) -> tuple[Distribution, Scores, Int[np.ndarray, " boxes"]]:
    """Makes the distribution that records hold of class probabilities.

    Where the detector has no background, it gets what the classes leave of 1; classes that exceed 1 together, as those
    of independent sigmoids, are divided by their sum.

    Args:
        given: probabilities.
        background: the column of the background; None where there is none.

    Returns:
        The distribution with the background as column 0, the score of the best other class, and the number of that.
    """
    classes = given if background is None else np.delete(given, background, axis=1)
    best = classes.argmax(axis=1)
    scores = classes[np.arange(len(classes)), best]
    if background is None:
        total = classes.sum(axis=1, keepdims=True)
        rest = np.clip(1.0 - total, 0.0, None)
        return np.concatenate([rest, classes / np.maximum(total, 1.0)], axis=1), scores, best
    return np.concatenate([given[:, [background]], classes], axis=1), scores, best


def names(numbers: Int[np.ndarray, " boxes"], class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the name of each class number; "" for one without."""
    return tuple(class_names[number] if 0 <= number < len(class_names) else "" for number in numbers.tolist())
