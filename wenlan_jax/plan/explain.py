"""`wenlan plan --explain` and `--presets`: how every leaf of the state lies, and the meshes by name."""

from __future__ import annotations

from collections.abc import Sequence

from wenlan_jax import mesh, run
from wenlan_jax.plan import accounting

HEADINGS = ("leaf", "shape", "spec", "bytes per device")


def explain(current: run.Run) -> str:
    """A table of all leaves: name, shape, partition, bytes per device; and their sum."""
    rows = [(leaf.name, _shape(leaf), leaf.spec, f"{leaf.bytes:,}") for leaf in accounting.leaves(current)]
    total = sum(leaf.bytes for leaf in accounting.leaves(current))
    return table(HEADINGS, [*rows, ("total", "", "", f"{total:,}")])


def _shape(leaf: accounting.Leaf) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def presets() -> str:
    """The named meshes with their axes."""
    rows = [(name, *map(_size, preset.sizes), preset.what) for name, preset in mesh.PRESETS.items()]
    return table(("mesh.preset", *mesh.AXES, "for"), rows)


def _size(size: int) -> str:
    return {mesh.PER_SLICE: "slices", -1: "rest"}.get(size, str(size))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest entry, the last one ragged."""
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )
