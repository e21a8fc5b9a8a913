"""Where the bytes of a device go: the state by its parts, exactly, and what the compiler needs besides."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from wenlan_jax.core import trees
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks import registry
from wenlan_jax.tasks.run import Run

PARTS = (
    ("parameters", r"^params/"),
    ("momentum", r"^momentum/params/"),
    ("optimiser", r"^opt_state/"),
    ("banks", r"^banks/"),
    ("other state", r""),
)
"""Parts of the train state and the paths that belong to each; the first that matches holds. `other state` are the
statistics of batch normalisation, counters and the random key."""


@dataclasses.dataclass(frozen=True)
class StateLeaf:
    """One leaf of the state.

    Attributes:
        name: its path.
        shape: of the whole leaf.
        dtype: its dtype.
        spec: how it lies on the mesh, for a person.
        bytes: what it takes on each device.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    spec: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs.

    Attributes:
        parts: of the arguments: the state by part, and the batch; the leaves' own sizes.
        padding: what the device's layout adds to the arguments (TPUs store matrices in tiles).
        temporaries: what the compiled program needs at its peak besides: activations, gradients, buffers.
        results: new memory for results; the new state takes the place of the old one, which is donated.
        reserved: what the compiler sets aside, code included.
    """

    parts: dict[str, int]
    padding: int
    temporaries: int
    results: int
    reserved: int

    @property
    def arguments(self) -> int:
        """Bytes of state and batch as they lie."""
        return sum(self.parts.values()) + self.padding

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.arguments + self.temporaries + self.results + self.reserved


def leaves(current: Run) -> Iterator[StateLeaf]:
    """Iterates over every leaf of a run's state, in tree order."""
    shardings = trees.flatten(current.shardings)
    for name, leaf in trees.flatten(current.shapes).items():
        yield StateLeaf(
            name, leaf.shape, str(leaf.dtype), _text(shardings[name]), bytes_on_device(leaf, shardings[name])
        )


def bytes_on_device(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> int:
    """Counts the bytes of a device's shard of a leaf, the largest one where they differ."""
    return math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize


def _text(sharding: NamedSharding) -> str:
    """A partition, as `(fsdp, -)`: the axes that split each dimension."""
    axes = [dim if isinstance(dim, tuple) else (dim,) for dim in sharding.spec]
    if not any(axis for dim in axes for axis in dim):
        return "replicated"
    return "(" + ", ".join("+".join(axis for axis in dim if axis) or "-" for dim in axes) + ")"


def of_state(current: Run) -> dict[str, int]:
    """Counts the bytes of each of `PARTS` on a device, by shapes and shardings alone."""
    found = dict.fromkeys((name for name, _ in PARTS), 0)
    for leaf in leaves(current):
        found[next(part for part, pattern in PARTS if re.search(pattern, leaf.name))] += leaf.bytes
    return found


def abstract_batch(current: Run) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a training batch, laid over the mesh."""
    sharding = meshes.batch_sharding(current.mesh)
    return {
        name: jax.ShapeDtypeStruct(field.shape, field.dtype, sharding=sharding)
        for name, field in registry.of(current.config).batch_spec(current.config).items()
    }


def of_program(current: Run, batch: dict[str, jax.ShapeDtypeStruct], analysis: Any) -> Memory:
    """Reads the memory of a compiled step.

    Args:
        current: the run.
        batch: the shapes of its batch.
        analysis: XLA's `memory_analysis`.

    Returns:
        Bytes on one device.
    """
    parts = of_state(current)
    parts["batch"] = sum(bytes_on_device(leaf, meshes.batch_sharding(current.mesh)) for leaf in batch.values())
    return Memory(
        parts=parts,
        padding=analysis.argument_size_in_bytes - sum(parts.values()),
        temporaries=analysis.temp_size_in_bytes,
        results=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        reserved=analysis.generated_code_size_in_bytes,
    )


def parameters(current: Run) -> dict[str, int]:
    """Counts parameters: those that learn, and those of both sets of towers, as the announcement counts."""
    query = trees.size(current.shapes.params)
    if current.shapes.momentum is None:
        return {"in all": query}
    return {"query towers": query, "with key encoders": query + trees.size(current.shapes.momentum.params)}


_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_USED = re.compile(r"[Uu]sed ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
_SINGLE = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")


def overflow(message: str) -> tuple[float, float] | None:
    """Reads libtpu's error that a program does not fit.

    Args:
        message: of an error.

    Returns:
        (bytes needed, bytes there are); None if it is another error.
    """
    match = _USED.search(message) or _SINGLE.search(message)
    if match is None or "RESOURCE_EXHAUSTED" not in message:
        return None
    needed, unit, available, other = match.groups()
    return float(needed) * _SIZES[unit], float(available) * _SIZES[other]
