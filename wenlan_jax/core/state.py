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
    """The key encoders.

    Attributes:
        params: averaged parameters, float32.
        batch_stats: their own batch statistics.
    """

    params: Params
    batch_stats: PyTree[Float[Array, ...]]


class TrainState(Tree):
    """The whole truth of a run: `state -> step(state, batch) -> state`.

    Attributes:
        step: the number of steps done, skipped ones included.
        params: trained and frozen parameters, float32.
        batch_stats: running statistics of batch normalisation.
        momentum: the key encoders; None for tasks without them.
        banks: the banks of negatives by name; empty for tasks without them.
        opt_state: the optimiser's state, of the trained leaves only.
        rng: the root key of the run, see `rngs.root`.
        skipped: the number of steps that were not taken because their loss or gradient was not finite.
    """

    step: Int[Array, ""]
    params: Params
    batch_stats: PyTree[Float[Array, ...]]
    momentum: Momentum | None
    banks: dict[str, Bank]
    opt_state: optax.OptState
    rng: UInt32[Array, 2]
    skipped: Int[Array, ""]
