"""A number for each leaf that changes when the leaf does, whatever devices it lies on.

Nothing below us notices a flipped bit: arrays are stored as they are, and a restore reads whatever the file now says.
So each leaf's sum is written beside it and compared after it was read. A sum adds up a mixture of every element and
its place modulo 2^32: addition takes any order, so the sum is the same on every mesh, and no file is read twice.
One changed element always changes the sum; several at once escape with a chance of 2^-32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, UInt, UInt32

from wenlan_jax.core import trees
from wenlan_jax.models.arrays import Array

HOST_BYTES = 2**18
"""Leaves up to this size are summed on the host: they are many, of many shapes, and a device would compile each."""

CHUNK = 2**16
"""Elements summed at once by NumPy, so that they stay in the processor's cache."""

PIECE = 2**20
"""Elements summed at once by the one program that serves leaves of all shapes in the memory of the host."""

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_STRIDE, _FIRST, _SECOND = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


def of_tree(tree: PyTree) -> dict[str, int]:
    """Computes the checksum of every leaf.

    On several processes all must call it, as leaves that are split over them are summed by all.

    Args:
        tree: arrays of NumPy or jax with elements of at most 4 bytes.

    Returns:
        The sums by the names of the leaves.
    """
    sums = {name: _on_host(leaf) if _is_for_host(leaf) else _on_devices(leaf) for name, leaf in _leaves(tree)}
    return {name: int(value) for name, value in jax.device_get(sums).items()}


def differing(tree: PyTree, sums: Mapping[str, int]) -> list[str]:
    """Lists the leaves whose checksum is another one.

    Args:
        tree: arrays.
        sums: the sums to compare with; leaves that are not in there are skipped.

    Returns:
        The names of the leaves.
    """
    found = of_tree({name: leaf for name, leaf in _leaves(tree) if name in sums})
    return [name for name, value in found.items() if value != sums[name]]


def _leaves(tree: PyTree) -> list[tuple[str, Any]]:
    return list(trees.flatten(tree).items())


def _is_for_host(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    if leaf.nbytes <= HOST_BYTES:
        return leaf.is_fully_addressable or leaf.is_fully_replicated
    return [device.platform for device in leaf.devices()] == ["cpu"]  # no copy, and no program of its own


def _mixed(bits: Any, place: Any) -> Any:
    """Elements and places as uint32, stirred; at one place different elements stay different."""
    stirred = (bits ^ (place * _STRIDE)) * _FIRST
    stirred = (stirred ^ (stirred >> np.uint32(15))) * _SECOND
    return stirred ^ (stirred >> np.uint32(16))


def _on_host(leaf: Any) -> int:
    values = np.ascontiguousarray(leaf).reshape(-1)
    values = values.view(_UNSIGNED[values.dtype.itemsize])
    total, done = 0, 0
    if jax.default_backend() == "cpu":
        done = values.size // PIECE * PIECE
        total = sum(int(_of_piece(values[at : at + PIECE], np.uint32(at % 2**32))) for at in range(0, done, PIECE))
    for start in range(done, values.size, CHUNK):
        bits = values[start : start + CHUNK].astype(np.uint32)
        place = np.arange(start, start + bits.size, dtype=np.uint64).astype(np.uint32)
        total += int(_mixed(bits, place).sum(dtype=np.uint64))
    return total % 2**32


@jax.jit
def _of_piece(values: UInt[Array, " piece"], start: UInt32[Array, ""]) -> UInt32[Array, ""]:
    place = start + jax.lax.iota(jnp.uint32, values.size)
    return jnp.sum(_mixed(values.astype(jnp.uint32), place), dtype=jnp.uint32)


@jax.jit
def _on_devices(leaf: Array) -> UInt32[Array, ""]:
    whole = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
    bits = jax.lax.bitcast_convert_type(whole, _UNSIGNED[whole.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place = place * np.uint32(size % 2**32) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    return jnp.sum(_mixed(bits, place), dtype=jnp.uint32)
