"""Copies of arrays whose axes were moved: most of a conversion's work, and most of it can be avoided.

Where the quick axis of the source is not that of the copy, NumPy reads one number from each line of the processor's
cache and has lost the line before it comes for the next. Copied in tiles, each line is used whole.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence

import numpy as np

THREADS = min(8, os.cpu_count() or 1)
"""For copies of several arrays; more would wait for memory."""

SOURCE_TILE, TARGET_TILE = 512, 64
"""Of the axis that is quick in the source, and of the last. NumPy walks along the first, so it is the longer one; a
tile of float32 is 128 kB, which the second level of the cache holds."""


def contiguous(array: np.ndarray) -> np.ndarray:
    """Returns the array itself if it lies in the order of its axes, else a copy that does."""
    if array.flags.c_contiguous:
        return array
    target = np.empty(array.shape, array.dtype)
    _copy(array, target)
    return target


class Buffer:
    """Memory for one copy after the other: memory that is new has to be cleared, which takes as long as copying."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def contiguous(self, array: np.ndarray) -> np.ndarray:
        """Does the same as the function of this name; a copy is good until the next call."""
        if array.flags.c_contiguous:
            return array
        if self._bytes.size < array.nbytes:
            self._bytes = np.empty(array.nbytes, np.uint8)
        target = self._bytes[: array.nbytes].view(array.dtype).reshape(array.shape)
        _copy(array, target)
        return target


def stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks arrays, as `np.stack` does.

    Args:
        arrays: one or more.

    Returns:
        The stacked array.

    Raises:
        ValueError: if their shapes or types differ.
    """
    first = arrays[0]
    if any((array.shape, array.dtype) != (first.shape, first.dtype) for array in arrays):
        raise ValueError(f"arrays of {sorted({f'{array.dtype} {array.shape}' for array in arrays})} cannot be stacked")
    target = np.empty((len(arrays), *first.shape), first.dtype)
    for row, array in enumerate(arrays):
        _copy(array, target[row, ...])
    return target


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """Copies into an array of the same shape that lies in the order of its axes."""
    last = source.ndim - 1
    quick = min(range(source.ndim), key=lambda axis: _step(source, axis), default=last)
    if source.ndim < 2 or _step(source, quick) == _step(source, last):
        target[...] = source
        return
    index = [slice(None)] * source.ndim
    tiles = _tiles(source.shape[quick], SOURCE_TILE), _tiles(source.shape[last], TARGET_TILE)
    for rows, columns in itertools.product(*tiles):
        index[quick], index[last] = rows, columns
        target[tuple(index)] = source[tuple(index)]


def _step(array: np.ndarray, axis: int) -> float:
    """Bytes from one element to the next; an axis of one element is never stepped along."""
    return abs(array.strides[axis]) if array.shape[axis] > 1 else float("inf")


def _tiles(size: int, tile: int) -> Iterator[slice]:
    return (slice(start, start + tile) for start in range(0, size, tile))
