"""Stateless random streams: a key is a function of (root key, stream name, step, index).

Nothing is split off and carried along, so a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Int, PRNGKeyArray, UInt32

from wenlan_jax.models.arrays import Array


def root(seed: int) -> UInt32[Array, 2]:
    """Makes the root key of a run, as plain numbers that any checkpoint format can hold.

    Args:
        seed: the seed of the run.

    Returns:
        The data of a threefry key.
    """
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


def stream(
    root_key: UInt32[Array, 2], name: str, step: Int[Array, ""] | int, index: Int[Array, ""] | int = 0
) -> PRNGKeyArray:
    """Makes the random key of a named stream at a step.

    Args:
        root_key: the run's root key, from `root`.
        name: the stream, such as `augment`.
        step: the step.
        index: tells micro-batches of one step apart.

    Returns:
        A key of jax.random, the same for the same arguments.

    Example:
        `stream(state.rng, "augment", state.step)` gives the key of the augmentation at the present step.
    """
    key = jax.random.wrap_key_data(root_key, impl="threefry2x32")
    for number in (zlib.crc32(name.encode()), step, index):
        key = jax.random.fold_in(key, jnp.uint32(number))
    return key
