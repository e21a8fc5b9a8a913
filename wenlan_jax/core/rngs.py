"""Stateless random streams: a key is a function of (root key, stream name, step, index).

Nothing is split off and carried along, so a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Int, UInt32

from wenlan_jax.models.arrays import Array


def root(seed: int) -> UInt32[Array, 2]:
    """The root key of a run as plain numbers, so that any checkpoint format can hold it."""
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


def stream(root_key: UInt32[Array, 2], name: str, step: Int[Array, ""] | int, index: Int[Array, ""] | int = 0) -> Array:
    """The key of the stream `name` at `step`; `index` tells micro-batches apart."""
    key = jax.random.wrap_key_data(root_key, impl="threefry2x32")
    for number in (zlib.crc32(name.encode()), step, index):
        key = jax.random.fold_in(key, jnp.uint32(number))
    return key
