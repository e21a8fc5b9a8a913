"""Checksums of leaves: the same on every mesh and on the host, another one after any change."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from wenlan_jax.checkpoints import checksums

LARGE = checksums.HOST_BYTES // 4
"""Rows of eight that a device sums for every dtype below."""


def sum_of(leaf: Any) -> int:
    return checksums.of_tree({"leaf": leaf})["leaf"]


def noise(dtype: Any, rows: int = LARGE) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(rows, 8)) * 100
    return values > 0 if dtype is np.bool_ else values.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32, np.uint8, np.bool_], ids=lambda d: d.__name__)
def test_a_sum_is_the_same_wherever_the_leaf_lies(dtype: Any) -> None:
    values = noise(dtype)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    expected = sum_of(values)
    for spec in (P(), P("data"), P(None, "data")):
        leaf = jax.device_put(values, NamedSharding(mesh, spec))
        assert leaf.nbytes > checksums.HOST_BYTES
        assert sum_of(leaf) == expected, spec


def test_small_leaves_and_scalars_are_summed_on_the_host_alike() -> None:
    values = noise(np.float32, 5)
    assert sum_of(jnp.asarray(values)) == sum_of(values) == int(checksums._on_devices(values))
    assert sum_of(jnp.float32(3)) == sum_of(np.float32(3)) == int(checksums._on_devices(jnp.float32(3)))
    assert sum_of(np.zeros((0, 4), np.float32)) == 0


def test_pieces_and_their_rest_make_the_same_sum() -> None:
    values = noise(jnp.bfloat16, 2 * checksums.PIECE // 8 + 5)
    pieces, whole = sum_of(jnp.asarray(values)), int(checksums._on_devices(values))
    assert pieces == whole == sum_of(values)
    values[-1, 0] += 1
    assert sum_of(values) != pieces


def test_every_flipped_bit_changes_the_sum() -> None:
    values = np.random.default_rng(0).normal(size=7).astype(np.float32)
    bits = values.view(np.uint32)
    sums = {sum_of(values)}
    for element in range(values.size):
        for bit in range(32):
            other = bits.copy()
            other[element] ^= np.uint32(1 << bit)
            sums.add(sum_of(other.view(np.float32)))
    assert len(sums) == 1 + 7 * 32


def test_order_and_repetition_change_the_sum() -> None:
    values = noise(np.float32, 100)
    flat = values.reshape(-1)
    changed = [
        values[::-1],
        values.T.copy(),
        np.roll(flat, 1),
        np.zeros_like(values),
        np.repeat(values[:50], 2, axis=0),
    ]
    assert len({sum_of(values), *map(sum_of, changed)}) == len(changed) + 1


def test_elements_beyond_the_first_piece_count() -> None:
    values = np.zeros(checksums.CHUNK * 2 + 3, np.int32)
    other = values.copy()
    other[-1] = 1
    assert sum_of(values) != sum_of(other)


def test_the_leaves_that_differ_are_named_and_unknown_ones_skipped() -> None:
    tree = {"a": {"b": np.arange(4.0, dtype=np.float32)}, "c": np.arange(3), "d": np.ones(2, np.float32)}
    tree["c"] = tree["c"].astype(np.int32)
    sums = checksums.of_tree(tree)
    tree["a"]["b"][2] += 1e-6
    tree["d"][0] = 5
    del sums["d"]
    assert checksums.differing(tree, sums) == ["a/b"]
