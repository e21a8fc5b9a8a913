"""The bank of negatives: a ring of the K newest keys, as explicit state.

Keys are laid out as `(slots, batch, dim)`: a push overwrites one slot, so with the batch axis sharded every device
writes its own rows and nothing is permuted. There are ceil(K / batch) slots; where the batch does not divide K, the
oldest slot counts only in part, so that exactly the K newest keys are negatives whatever the two sizes are.

    rank   how many valid keys are newer than an entry; the newest key has rank 0
    fill   how many entries count, at most K
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from wenlan_jax.models.arrays import Array, Tree

NO_ID = -1
"""Id of an entry that no image stands behind; equal to no image's id."""


class Bank(Tree):
    """The `capacity` newest keys, as a ring of slots.

    Attributes:
        keys: unit vectors, float32; one slot holds the keys of one push.
        ids: the image id of each key, `NO_ID` where there is no image.
        pushed_at: the step that wrote each slot, -1 where none did.
        cursor: the slot that the next push writes.
        fill: how many entries count as negatives, at most `capacity`.
        capacity: the greatest number of negatives (K); static, not an array.
    """

    keys: Float[Array, "slots batch dim"]
    ids: Int[Array, "slots batch"]
    pushed_at: Int[Array, " slots"]
    cursor: Int[Array, ""]
    fill: Int[Array, ""]
    capacity: int = struct.field(pytree_node=False)


def create(capacity: int, batch: int, dim: int, random_key: PRNGKeyArray | None = None) -> Bank:
    """Creates a bank, empty or full of random unit vectors.

    Args:
        capacity: the greatest number of negatives (K).
        batch: how many keys each push brings.
        dim: the width of a key.
        random_key: a key of jax.random to fill the bank from, as the released code does [C]; None for an empty bank.

    Returns:
        A bank of ceil(capacity / batch) slots; random entries have `NO_ID`.
    """
    slots = -(-capacity // batch)
    shape = (slots, batch, dim)
    keys = jnp.zeros(shape, jnp.float32)
    if random_key is not None:
        keys = jax.random.normal(random_key, shape, jnp.float32)
        keys /= jnp.linalg.norm(keys, axis=-1, keepdims=True)
    return Bank(
        keys=keys,
        ids=jnp.full((slots, batch), NO_ID, jnp.int32),
        pushed_at=jnp.full(slots, -1, jnp.int32),
        cursor=jnp.zeros((), jnp.int32),
        fill=jnp.asarray(0 if random_key is None else capacity, jnp.int32),
        capacity=capacity,
    )


def push(bank: Bank, keys: Float[Array, "batch dim"], ids: Int[Array, " batch"], step: int | Int[Array, ""]) -> Bank:
    """Writes keys into the bank as its newest entries.

    Args:
        bank: the bank.
        keys: the keys of one batch; the last row is the newest.
        ids: the image ids of the keys.
        step: the step that made them.

    Returns:
        The bank after the push; the oldest slot is overwritten.
    """
    slots = bank.keys.shape[0]
    return bank.replace(
        keys=jax.lax.dynamic_update_index_in_dim(bank.keys, keys.astype(bank.keys.dtype), bank.cursor, 0),
        ids=jax.lax.dynamic_update_index_in_dim(bank.ids, ids.astype(bank.ids.dtype), bank.cursor, 0),
        pushed_at=bank.pushed_at.at[bank.cursor].set(step),
        cursor=(bank.cursor + 1) % slots,
        fill=jnp.minimum(bank.fill + keys.shape[0], bank.capacity),
    )


def ranks(bank: Bank) -> Int[Array, "slots batch"]:
    """Says how many keys are newer than each entry, valid or not; the newest key has rank 0."""
    slots, batch = bank.ids.shape
    pushes_since = (bank.cursor - 1 - jnp.arange(slots)) % slots
    return pushes_since[:, None] * batch + (batch - 1 - jnp.arange(batch))[None, :]


def valid(bank: Bank) -> Bool[Array, "slots batch"]:
    """Which entries count as negatives."""
    return ranks(bank) < bank.fill


def relaid(bank: Bank, capacity: int, batch: int) -> Bank:
    """Lays the newest keys of a bank into a ring of another capacity or batch size, on the host.

    Entries keep their order, so that exactly the keys that counted as negatives still do, as far as `capacity` allows;
    the oldest that do not fit are dropped. A slot of the new ring may hold keys of several steps; `pushed_at` notes the
    oldest of them.

    Args:
        bank: a bank whose arrays this process holds in full.
        capacity: the capacity of the new bank.
        batch: the batch size of the new bank.

    Returns:
        A bank of NumPy arrays.
    """
    slots, old = -(-capacity // batch), np.asarray(ranks(bank))
    kept = min(int(bank.fill), capacity, old.size)
    where = np.argsort(old, axis=None)[:kept]  # from the newest to the oldest
    into = slots * batch - 1 - np.arange(kept)  # the last place of the last slot is the newest: the cursor is at 0
    steps = np.broadcast_to(np.asarray(bank.pushed_at)[:, None], old.shape)
    none = np.iinfo(np.int32).max
    keys = np.zeros((slots * batch, bank.keys.shape[-1]), np.float32)
    ids, pushed = np.full(slots * batch, NO_ID, np.int32), np.full(slots * batch, none, np.int32)
    keys[into] = np.asarray(bank.keys).reshape(-1, keys.shape[-1])[where]
    ids[into] = np.asarray(bank.ids).ravel()[where]
    pushed[into] = np.where(steps.ravel()[where] >= 0, steps.ravel()[where], none)
    oldest = pushed.reshape(slots, batch).min(axis=1)
    fields: dict[str, Any] = {
        "keys": keys.reshape(slots, batch, -1),
        "ids": ids.reshape(slots, batch),
        "pushed_at": np.where(oldest == none, -1, oldest).astype(np.int32),
        "cursor": np.zeros((), np.int32),
        "fill": np.asarray(kept, np.int32),
    }
    return Bank(**fields, capacity=capacity)


def oldest_age(bank: Bank, step: int | Int[Array, ""]) -> Int[Array, ""]:
    """Says how many steps ago the oldest valid key was pushed.

    Args:
        bank: the bank.
        step: the present step.

    Returns:
        The age in steps; 0 if no valid key was pushed by a step.
    """
    counted = valid(bank).any(axis=1) & (bank.pushed_at >= 0)
    return jnp.max(jnp.where(counted, step - bank.pushed_at, 0))
