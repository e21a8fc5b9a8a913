"""The momentum encoder: an exponential moving average of the query towers (He et al. 2020; BriVL [C])."""

from __future__ import annotations

from typing import TypeVar

import jax

T = TypeVar("T")


def update(keys: T, queries: T, momentum: float) -> T:
    """Moves the key encoders towards the towers: `m k + (1 - m) q` (He et al. 2020, section 3.2; BriVL [C]).

    A bfloat16 average at m = .999 never moves: the step is below half a unit in the last place. Batch statistics
    are not averaged; the key encoders keep their own [C].

    Args:
        keys: the parameters of the key encoders, float32.
        queries: the parameters of the towers, a tree of the same structure.
        momentum: the weight m of the old value, in [0, 1].

    Returns:
        The new parameters of the key encoders, in their own dtype.
    """
    return jax.tree.map(lambda k, q: momentum * k + (1.0 - momentum) * q, keys, queries)
