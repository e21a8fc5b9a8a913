"""`wenlan plan --explain` and `--presets`: how every leaf of the state lies, and the meshes by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wenlan_jax.parallel import mesh
from wenlan_jax.plan.accounting import abstract_batch, bytes_on_device, leaves
from wenlan_jax.tasks import registry
from wenlan_jax.tasks.run import Run

HEADINGS = ("leaf", "shape", "spec", "bytes per device")
OF_BATCH = ("field of the batch", "shape", "bytes per device", "")


def explain(current: Run) -> str:
    """Writes tables of the leaves of the state, with partition and bytes per device, and of the fields of a batch."""
    rows = [(leaf.name, _shape(leaf.dtype, leaf.shape), leaf.spec, f"{leaf.bytes:,}") for leaf in leaves(current)]
    total = sum(leaf.bytes for leaf in leaves(current))
    state = table(HEADINGS, [*rows, ("total", "", "", f"{total:,}")])
    return f"{state}\n\n{_batch(current)}"


def _batch(current: Run) -> str:
    """The fields of the training batch that needs most memory, which are split over all axes but `tensor`."""
    spec = registry.of(current.config).batch_spec(current.config)
    sizes = {name: bytes_on_device(leaf, leaf.sharding) for name, leaf in abstract_batch(current).items()}
    rows = [
        (name, _shape(np.dtype(field.dtype).name, field.shape), f"{sizes[name]:,}", field.meaning)
        for name, field in spec.items()
    ]
    return table(OF_BATCH, [*rows, ("total", "", f"{sum(sizes.values()):,}", "")])


def _shape(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def presets() -> str:
    """Writes the named meshes with their axes."""
    rows = [(name, *map(_size, preset.sizes), preset.what) for name, preset in mesh.PRESETS.items()]
    return table(("mesh.preset", *mesh.AXES, "for"), rows)


def _size(size: int) -> str:
    return {mesh.PER_SLICE: "slices", -1: "rest"}.get(size, str(size))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes columns as wide as their longest entry, the last one ragged."""
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )
