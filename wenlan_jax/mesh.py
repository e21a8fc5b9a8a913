"""The device mesh: axes and sizes from the configuration, and how a batch lies on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from wenlan_jax import schema

BATCH_AXES = ("replica", "data", "fsdp")
"""The axes that split a batch, outermost first."""


class MeshError(ValueError):
    """A mesh that the devices at hand cannot form, or a batch that does not divide by it."""


def create(config: schema.Mesh, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (all by default). Raises MeshError when the sizes do not multiply to their number."""
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"replica": config.replica, "data": config.data, "fsdp": config.fsdp}
    known = math.prod(size for size in sizes.values() if size != -1)
    if -1 in sizes.values():
        sizes = {axis: len(devices) // known if size == -1 else size for axis, size in sizes.items()}
    if math.prod(sizes.values()) != len(devices):
        raise MeshError(
            f"mesh: {' x '.join(f'{axis}={size}' for axis, size in sizes.items())} is not the {len(devices)} devices "
            "at hand; set one of --config.mesh.replica, .data, .fsdp to -1 to take the rest"
        )
    # Auto: the compiler places intermediate values; the default (Explicit) refuses products of sharded operands.
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def check_batch(mesh: Mesh, batch_size: int, name: str) -> None:
    """Raises MeshError unless `batch_size`, the value of the field `name`, divides over the mesh."""
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size % ways:
        raise MeshError(f"{name}: {batch_size} does not divide over {ways} devices; use a multiple of {ways}")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over all devices."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, P())


def to_devices(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The global batch whose rows of this process are `batch`, laid over the mesh."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def to_host(array: jax.Array) -> np.ndarray:
    """The whole value of a global array, on every process."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
