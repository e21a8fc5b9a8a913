"""The train state: all that a step reads and writes, and so all that a checkpoint must hold."""

from __future__ import annotations

from typing import Any

import optax
from jaxtyping import Float, Int, PyTree, UInt32

from wenlan_jax.core.bank import Bank
from wenlan_jax.models.arrays import Array, Tree

Params = Any
"""A tree of float32 arrays, by tower: `{"image": {...}, "text": {...}, ...}`."""

MOMENTUM = "_momentum"
"""After the name of a tower: its momentum copy."""


class Momentum(Tree):
    """The key towers: averaged parameters and batch statistics of their own."""

    params: Params
    batch_stats: PyTree[Float[Array, ...]]


class TrainState(Tree):
    """The whole truth of a run: `state -> step(state, batch) -> state`.

    `momentum` is None and `banks` is empty for tasks without momentum towers. `opt_state` covers the trained
    leaves only. `skipped` counts the steps that were not taken as their loss or gradient was not finite.
    """

    step: Int[Array, ""]
    params: Params
    batch_stats: PyTree[Float[Array, ...]]
    momentum: Momentum | None
    banks: dict[str, Bank]
    opt_state: optax.OptState
    rng: UInt32[Array, 2]
    skipped: Int[Array, ""]
