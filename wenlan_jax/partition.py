"""Ordered rules that decide, from a leaf's path alone, how it lies on the mesh.

The first rule whose pattern is found in the path holds. A leaf that no rule covers and a rule that covers no leaf
are errors, so that a renamed parameter cannot fall out of its sharding unnoticed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from wenlan_jax import trees
from wenlan_jax.mesh import BATCH_AXES


class PartitionError(ValueError):
    """Leaves without a rule, or rules without a leaf."""


@dataclasses.dataclass(frozen=True)
class Largest:
    """Split the largest dimension that `axis` divides; replicate the leaf if there is none."""

    axis: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """Leaves in whose path `pattern` is found lie as `spec` says. `optional`: it may cover nothing."""

    pattern: str
    spec: P | Largest
    optional: bool = False


STATE_RULES = (
    Rule(r"^banks/\w+/keys$", P(None, BATCH_AXES), optional=True),
    Rule(r"^banks/\w+/ids$", P(None, BATCH_AXES), optional=True),
    Rule(r"^banks/\w+/(pushed_at|cursor|fill)$", P(), optional=True),
    Rule(r"^params/", Largest("fsdp")),
    Rule(r"^momentum/params/", Largest("fsdp"), optional=True),
    Rule(r"^opt_state/", Largest("fsdp"), optional=True),
    Rule(r"batch_stats/", P(), optional=True),
    Rule(r"^(step|rng|skipped)$", P()),
)
"""How a train state lies: banks by rows, parameters and their moments over `fsdp`, the rest everywhere."""


def spec_of(rule: Rule, shape: Sequence[int], mesh: Mesh) -> P:
    """The partition of a leaf of `shape` under `rule`."""
    if not isinstance(rule.spec, Largest):
        return rule.spec
    ways = mesh.shape[rule.spec.axis]
    fitting = [dim for dim, size in enumerate(shape) if size % ways == 0 and size >= ways]
    if ways == 1 or not fitting:
        return P()
    largest = max(fitting, key=lambda dim: shape[dim])
    return P(*(rule.spec.axis if dim == largest else None for dim in range(len(shape))))


def shardings(tree: PyTree, mesh: Mesh, rules: Sequence[Rule] = STATE_RULES) -> Any:
    """The sharding of every leaf of `tree` (arrays or their shapes). Raises PartitionError listing all faults."""
    used: set[str] = set()
    uncovered: list[str] = []

    def place(name: str, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        for rule in rules:
            if re.search(rule.pattern, name):
                used.add(rule.pattern)
                return NamedSharding(mesh, spec_of(rule, leaf.shape, mesh))
        uncovered.append(name)
        return NamedSharding(mesh, P())

    placed = trees.map_named(place, tree)
    idle = [rule.pattern for rule in rules if rule.pattern not in used and not rule.optional]
    faults = [f"no rule covers {name}" for name in uncovered] + [f"no leaf matches the rule {p}" for p in idle]
    if faults:
        raise PartitionError("sharding rules:\n  " + "\n  ".join(faults))
    return placed
