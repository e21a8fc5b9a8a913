"""The declaration of a batch: name, shape, dtype and meaning of every field, and values that a loader could give.

A task declares its batches once, as a `BatchSpec`. Shapes for plans and for compilation, zeros for initialisation and
random batches for benchmarks are made from it; the makers of `data/` are tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""Values of a shape."""


class Field(NamedTuple):
    """A field of a batch.

    Attributes:
        shape: of the field, the examples first.
        dtype: as the loader gives it.
        meaning: in a few words, with units.
        draw: random values such as a loader could give.
    """

    shape: tuple[int, ...]
    dtype: type[np.generic]
    meaning: str
    draw: Draw


BatchSpec = Mapping[str, Field]
"""The fields of a batch by name."""


def random_batch(spec: BatchSpec, seed: int) -> dict[str, np.ndarray]:
    """Draws random examples.

    Args:
        spec: the fields of the batch.
        seed: of the draw; the same seed gives the same batch.

    Returns:
        Arrays of the declared shapes and dtypes.
    """
    rng = np.random.default_rng(seed)
    return {name: field.draw(rng, field.shape).astype(field.dtype) for name, field in spec.items()}


def zeros(spec: BatchSpec) -> dict[str, jax.Array]:
    """Makes a batch of zeros, for what depends on shapes alone."""
    return {name: jnp.zeros(field.shape, field.dtype) for name, field in spec.items()}


def faults(spec: BatchSpec, batch: Mapping[str, Any]) -> list[str]:
    """Compares a batch with its spec.

    Args:
        spec: the fields that are declared.
        batch: arrays by name.

    Returns:
        One message for every field that is missing, not declared, or of another shape or dtype.
    """
    found = [f"{name}: missing" for name in spec if name not in batch]
    for name, array in batch.items():
        if name not in spec:
            found.append(f"{name}: not in the spec")
        elif (array.shape, array.dtype) != (spec[name].shape, np.dtype(spec[name].dtype)):
            wanted = f"{spec[name].shape} of {np.dtype(spec[name].dtype)}"
            found.append(f"{name}: {array.shape} of {array.dtype}, declared as {wanted}")
    return found


def ids(rows: int, first: int = 0) -> Draw:
    """Draws ids of tokens.

    Args:
        rows: of the vocabulary; ids are below it.
        first: the lowest id; below it are the special tokens.

    Returns:
        A function that draws values of a shape.
    """
    return lambda rng, shape: rng.integers(min(first, rows - 1), rows, shape)


def below(limit: int, least: int = 0) -> Draw:
    """Draws whole numbers.

    Args:
        limit: they are below it.
        least: the lowest.

    Returns:
        A function that draws values of a shape.
    """
    return lambda rng, shape: rng.integers(least, limit, shape)


def full(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns ones: captions at full length, images with all their regions."""
    return np.ones(shape)


def numbered(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns ascending numbers: every example is another image."""
    return np.arange(shape[0])


def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draws numbers from 0 to 1."""
    return rng.random(shape)


def shares(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draws distributions over the last axis."""
    drawn = rng.random(shape)
    return drawn / drawn.sum(-1, keepdims=True)


def boxes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draws boxes: left, top, right and bottom in units of the image's sides."""
    return np.sort(rng.random((*shape[:-1], 2, 2)), axis=-2).reshape(shape)


def places(length: int) -> Draw:
    """Draws different places for every example.

    Args:
        length: places are below it.

    Returns:
        A function that draws values of a shape (examples, places).
    """

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.permuted(np.tile(np.arange(length), (shape[0], 1)), axis=1)[:, : shape[1]]

    return draw


def chosen(probability: float) -> Draw:
    """Draws booleans, at least one of them true in every example.

    Args:
        probability: of True.

    Returns:
        A function that draws values of a shape (examples, places).
    """

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        found = rng.random(shape) < probability
        found[:, 0] |= ~found.any(axis=1)
        return found

    return draw
