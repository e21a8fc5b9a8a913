"""The device mesh: axes and sizes from the configuration, and how a batch lies on it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from wenlan_jax.config import sections
from wenlan_jax.models.placement import Places
from wenlan_jax.util.errors import WenlanError

BATCH_AXES = ("replica", "data", "fsdp")
"""The axes that split a batch, outermost first."""

AXES = (*BATCH_AXES, "tensor")
"""All axes, outermost first: the innermost talk most and get the nearest devices."""

ONE_DEVICE = tuple(f"--config.mesh.{axis}=1" for axis in AXES) + ("--config.mesh.preset=",)
"""The fields of a mesh of one device, onto which checkpoints of any mesh can be read."""

PER_SLICE = 0
"""Size of an axis in a preset: one for every TPU slice."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """A mesh by name.

    Attributes:
        what: what it is for.
        sizes: of the axes, in the order of `AXES`; -1 takes the rest of the devices, `PER_SLICE` one a slice.
    """

    what: str
    sizes: tuple[int, int, int, int]


PRESETS = {
    "laptop": Preset("one device", (1, 1, 1, 1)),
    "8_gpus": Preset("one machine of 8 GPUs, the state split over them", (1, 1, 8, 1)),
    "16x8_gpus": Preset("16 machines of 8 GPUs, as for BriVL 1; the state split within each", (16, 1, 8, 1)),
    "14x8_gpus": Preset("14 machines of 8 GPUs, as for BriVL 2 [R]; the state split within each", (14, 1, 8, 1)),
    "slice": Preset("one TPU slice (v5e, v5p, v6e) of any size, the state split over it", (1, 1, -1, 1)),
    "slices": Preset("several TPU slices of one size, the state split over each", (PER_SLICE, 1, -1, 1)),
    "slice_tensor_4": Preset("one TPU slice, layers split over 4 neighbours and the rest over fsdp", (1, 1, -1, 4)),
}
"""Meshes by name, for `mesh.preset`."""


class MeshError(WenlanError, ValueError):
    """A mesh that the devices at hand cannot form, or a batch that does not divide by it."""


def create(config: sections.MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Creates the mesh of a configuration.

    Args:
        config: the section `mesh` of the configuration.
        devices: the devices; None for all.

    Returns:
        The mesh, with Auto axes.

    Raises:
        MeshError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = _sizes(config, len(devices), slices)
    # Auto: the compiler places intermediate values; the default (Explicit) refuses products of sharded operands.
    auto = (AxisType.Auto,) * len(AXES)
    if slices == 1:
        return jax.make_mesh(sizes, AXES, axis_types=auto, devices=devices)
    if sizes[0] % slices:
        raise MeshError(
            f"mesh.replica: {sizes[0]} is not a multiple of the {slices} slices; only gradients and queries should "
            f"cross the network between them: set --config.mesh.replica={slices}"
        )
    within = (sizes[0] // slices, *sizes[1:])
    grid = mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1, 1), devices)
    return Mesh(grid, AXES, axis_types=auto)


def _sizes(config: sections.MeshConfig, devices: int, slices: int) -> tuple[int, ...]:
    """The size of each of `AXES`, with -1 filled in."""
    if config.preset and config.preset not in PRESETS:
        raise MeshError(f"mesh.preset: there is no {config.preset!r}; known are {', '.join(PRESETS)}")
    sizes = PRESETS[config.preset].sizes if config.preset else tuple(getattr(config, axis) for axis in AXES)
    sizes = tuple(slices if size == PER_SLICE else size for size in sizes)
    known, asked = math.prod(size for size in sizes if size != -1), sizes
    if sizes.count(-1) == 1:
        sizes = tuple(devices // known if size == -1 else size for size in sizes)
    if math.prod(sizes) != devices:
        found = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, asked, strict=True))
        remedy = (
            "choose another --config.mesh.preset, or none"
            if config.preset
            else "set one of " + ", ".join(f"--config.mesh.{axis}" for axis in AXES) + " to -1 to take the rest"
        )
        raise MeshError(f"mesh: {found} is not the {devices} devices at hand; {remedy}")
    return sizes


def platform(mesh: Mesh) -> str:
    """Says what the mesh's devices are: `cpu`, `gpu` or `tpu`."""
    name: str = mesh.devices.flat[0].platform
    return name


def check_batch(mesh: Mesh, batch_size: int, name: str) -> None:
    """Checks that a batch divides over the mesh.

    Args:
        mesh: the mesh.
        batch_size: the number of examples.
        name: of the field that says it, for the message.

    Raises:
        MeshError: if it does not.
    """
    ways = _ways(mesh)
    if batch_size % ways:
        raise MeshError(f"{name}: {batch_size} does not divide over {ways} devices; use a multiple of {ways}")


def _ways(mesh: Mesh) -> int:
    """Parts that a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the rows of a batch over the axes that hold it."""
    return NamedSharding(mesh, P(BATCH_AXES))


def places(mesh: Mesh) -> Places | None:
    """Says how a model's activations and lookup tables lie on a mesh; None on one device."""
    if mesh.size == 1:
        return None

    def constrained(x: jax.Array, spec: P) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return Places(
        rows=lambda x: constrained(x, P(BATCH_AXES)),
        inner=lambda x: constrained(x, P(BATCH_AXES, *[P.UNCONSTRAINED] * (x.ndim - 1))),
        whole=lambda x: constrained(x, P()),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts the same value on every device."""
    return NamedSharding(mesh, P())


def to_devices(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Lays a batch over the mesh.

    Args:
        mesh: the mesh.
        batch: the rows of this process, see `share`.

    Returns:
        The global batch.
    """
    sharding, ways = batch_sharding(mesh), _ways(mesh)
    blocks = np.array(share(mesh, ways))

    def place(local: np.ndarray) -> jax.Array:
        rows = len(local) // len(blocks)

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            at = int(np.searchsorted(blocks, (index[0].start or 0) // rows)) * rows
            return local[at : at + rows]

        return jax.make_array_from_callback((rows * ways, *local.shape[1:]), sharding, part)

    return {name: place(value) for name, value in batch.items()}


def share(mesh: Mesh, batch_size: int) -> tuple[int, ...]:
    """Says which rows of a batch lie on this process's devices.

    They need not follow one another, as devices are ordered by how they are wired, and several processes share rows
    where `tensor` spans them.

    Args:
        mesh: the mesh.
        batch_size: of the global batch.

    Returns:
        Their positions in the batch, ascending.

    Raises:
        MeshError: if the batch does not divide over the mesh.
    """
    check_batch(mesh, batch_size, "the batch size")
    everywhere = np.arange(batch_size)
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return tuple(np.unique(np.concatenate([everywhere[index] for index in held if index is not None])).tolist())


def to_host(array: jax.Array) -> np.ndarray:
    """Returns the whole value of a global array, on every process."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
