"""The official model's queues of negatives and our banks, both ways.

A queue is K unit vectors and a pointer to the row that is overwritten next, which is the oldest one. A bank is a ring
of slots of one batch each (`wenlan_jax.core.bank`), whose oldest slot counts in part where the batch does not divide K.
Both are put in the order of age here, so that any batch size takes any queue.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Shaped

from wenlan_jax.convert.rules import FlatTree
from wenlan_jax.core.bank import NO_ID
from wenlan_jax.tasks import experiment

NAMES = {"image": ("img_queue", "image_queue"), "text": ("text_queue",)}
"""Keys of the queues by tower, the official one first; the pointer's adds `_ptr`."""

POINTERS = ("queue_ptr", "ptr_queue")
"""Keys of a pointer that both queues share."""

UNIT_TOLERANCE = 1e-2
"""How far the length of a stored key may be from 1: half-precision files round it."""

NOT_NEEDED = "queues, which count only with both towers and a task that has banks"


@dataclasses.dataclass(frozen=True)
class Queues:
    """What the queues of a file give.

    Attributes:
        leaves: of the banks by path.
        ignored: the queues' keys in the file, with the reason if left out.
        faults: one message each.
    """

    leaves: FlatTree
    ignored: dict[str, str]
    faults: list[str]


def left_out(state: Mapping[str, np.ndarray], reason: str = NOT_NEEDED) -> Queues:
    """Returns the queues of a state dict, none of them taken."""
    known = [name for names in NAMES.values() for name in names]
    keys = {*known, *(f"{name}_ptr" for name in known), *POINTERS}
    return Queues({}, {key: reason for key in state if key in keys}, [])


def read(state: Mapping[str, np.ndarray], config: experiment.Config) -> Queues:
    """Fills banks with the queues of a state dict, if it has both. A queue that does not fit is a fault.

    Args:
        state: the file's arrays by key.
        config: the configuration.

    Returns:
        The leaves of the banks.
    """
    keys = {tower: next((name for name in names if name in state), "") for tower, names in NAMES.items()}
    if not all(keys.values()):
        return left_out(state)
    taken = Queues({}, left_out(state, "").ignored, [])
    for tower, key in keys.items():
        rows = rows_of(state[key], config.model.embedding)
        pointer, faults = _pointer(state, key)
        faults += _misfits(key, state[key], rows, config)
        if rows is not None and not faults:
            bank = to_bank(rows, pointer, config.train.batch_size)
            taken.leaves.update({f"banks/{tower}/{name}": leaf for name, leaf in bank.items()})
        taken.faults.extend(faults)
    return taken


def _pointer(state: Mapping[str, np.ndarray], key: str) -> tuple[int, list[str]]:
    """Where a queue is written next, 0 if the file does not say, and faults."""
    found = next((name for name in (f"{key}_ptr", *POINTERS) if name in state), None)
    if found is None:
        return 0, []
    if state[found].size != 1:
        return 0, [f"{found} {state[found].shape} is not one number"]
    return int(state[found].item()), []


def _misfits(key: str, queue: np.ndarray, rows: np.ndarray | None, config: experiment.Config) -> list[str]:
    capacity, width = config.contrast.bank_size, config.model.embedding
    if rows is None:
        return [f"{key} {queue.shape} does not hold unit vectors of model.embedding={width}"]
    if len(rows) != capacity:
        return [f"{key} has {len(rows)} entries; set contrast.bank_size={len(rows)}, which is {capacity}"]
    return []


def rows_of(queue: Float[np.ndarray, "a b"], width: int) -> Float[np.ndarray, "entries width"] | None:
    """Reads a stored queue as rows.

    The official buffers are (width, entries); dumps of single queues are often (entries, width). Where both fit, the
    lengths of the vectors tell which it is.

    Args:
        queue: as it is stored.
        width: of an embedding.

    Returns:
        The rows, or None if it is no queue of unit vectors of that width.
    """
    if queue.ndim != 2:
        return None
    for rows in (queue.T, queue):
        if rows.shape[1] == width and np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=UNIT_TOLERANCE):
            return np.ascontiguousarray(rows)
    return None


def to_bank(rows: Float[np.ndarray, "entries width"], pointer: int, batch: int) -> dict[str, np.ndarray]:
    """Makes the leaves of a full bank.

    Args:
        rows: the queue.
        pointer: the row that would be overwritten next.
        batch: keys of a push.

    Returns:
        The leaves by name.
    """
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
    """Returns the valid keys of a bank, the oldest first: a queue whose pointer is 0."""
    keys = np.roll(leaves["keys"], -int(leaves["cursor"]), axis=0)
    rows = keys.reshape(-1, keys.shape[-1])
    return rows[len(rows) - int(leaves["fill"]) :]
