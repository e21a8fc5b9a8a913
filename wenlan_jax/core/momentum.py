"""The momentum encoder: an exponential moving average of the query towers (He et al. 2020; BriVL [C])."""

from __future__ import annotations

from typing import TypeVar

import jax

T = TypeVar("T")


def update(keys: T, queries: T, momentum: float) -> T:
    """`m k + (1 - m) q` over parameters, in their own dtype, which must be float32.

    A bfloat16 average at m = .999 never moves: the step is below half a unit in the last place. Batch statistics
    are not averaged; the key towers keep their own [C].
    """
    return jax.tree.map(lambda k, q: momentum * k + (1.0 - momentum) * q, keys, queries)
