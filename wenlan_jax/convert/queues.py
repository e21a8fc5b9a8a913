"""The official model's queues of negatives and our banks, both ways (facts: momentum, queues, loss).

A queue is K unit vectors and a pointer to the row that is overwritten next, which is the oldest one. A bank is a ring
of slots of one batch each (`wenlan_jax.bank`), whose oldest slot counts in part where the batch does not divide K.
Both are put in the order of age here, so that any batch size takes any queue.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Shaped

from wenlan_jax.bank import NO_ID

UNIT_TOLERANCE = 1e-2
"""How far the length of a stored key may be from 1: half-precision files round it."""


def rows_of(queue: Float[np.ndarray, "a b"], width: int) -> Float[np.ndarray, "entries width"] | None:
    """A stored queue as rows of `width` numbers, or None if it is no queue of unit vectors of that width.

    The official buffers are (width, entries); dumps of single queues are often (entries, width). Where both fit, the
    lengths of the vectors tell which it is.
    """
    if queue.ndim != 2:
        return None
    for rows in (queue.T, queue):
        if rows.shape[1] == width and np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=UNIT_TOLERANCE):
            return np.ascontiguousarray(rows)
    return None


def to_bank(rows: Float[np.ndarray, "entries width"], pointer: int, batch: int) -> dict[str, np.ndarray]:
    """The leaves of a full bank for pushes of `batch` keys; `pointer` is the row that would be overwritten next."""
    entries, width = rows.shape
    slots = -(-entries // batch)
    keys = np.zeros((slots * batch, width), np.float32)
    keys[-entries:] = np.roll(rows, -pointer, axis=0)
    return {
        "keys": keys.reshape(slots, batch, width),
        "ids": np.full((slots, batch), NO_ID, np.int32),
        "pushed_at": np.full(slots, -1, np.int32),
        "cursor": np.zeros((), np.int32),
        "fill": np.asarray(entries, np.int32),
    }


def from_bank(leaves: Mapping[str, Shaped[np.ndarray, ...]]) -> Float[np.ndarray, "fill width"]:
    """The valid keys of a bank, the oldest first: a queue whose pointer is 0."""
    keys = np.roll(leaves["keys"], -int(leaves["cursor"]), axis=0)
    rows = keys.reshape(-1, keys.shape[-1])
    return rows[len(rows) - int(leaves["fill"]) :]
