"""Ordered rules that decide, from a leaf's path alone, how it lies on the mesh.

The first rule whose pattern is found in the path holds. A leaf that no rule covers and a rule that covers no leaf
are errors, so that a renamed parameter cannot fall out of its sharding unnoticed.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from wenlan_jax.core import trees
from wenlan_jax.parallel.mesh import BATCH_AXES
from wenlan_jax.util.errors import WenlanError


class PartitionError(WenlanError, ValueError):
    """Leaves without a rule, or rules without a leaf."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Splits a leaf over the axes `tensor` and `fsdp`; a leaf that no axis divides is replicated.

    Over `fsdp` goes the largest dimension that is divisible by it and is not split over `tensor`.

    Attributes:
        tensor: the dimension to split over the axis `tensor`, counted from the last (-1); None for none.
    """

    tensor: int | None = None


@dataclasses.dataclass(frozen=True)
class PartitionRule:
    """A rule for leaves.

    Attributes:
        pattern: a regular expression, searched in the path of a leaf.
        spec: how these leaves lie.
        optional: whether the rule may cover nothing.
    """

    pattern: str
    spec: P | Split
    optional: bool = False


COLUMNS = r"(attention/(query|key|value)|linear1|projection/fc1)/(kernel|bias)$"
"""The first product of each pair in a Transformer layer or a projection: its outputs are split."""

ROWS = r"(attention/out|linear2|projection/fc2)/kernel$"
"""The second product: its inputs are split, and its outputs are summed over the axis (Shoeybi et al. 2019, 3)."""

_WEIGHTS = r"^(params|momentum/params|opt_state)/"

STATE_RULES = (
    PartitionRule(r"^banks/\w+/keys$", P(None, BATCH_AXES), optional=True),
    PartitionRule(r"^banks/\w+/ids$", P(None, BATCH_AXES), optional=True),
    PartitionRule(r"^banks/\w+/(pushed_at|cursor|fill)$", P(), optional=True),
    PartitionRule(_WEIGHTS + r".*" + COLUMNS, Split(tensor=-1)),
    PartitionRule(_WEIGHTS + r".*" + ROWS, Split(tensor=-2)),
    PartitionRule(_WEIGHTS, Split()),
    PartitionRule(r"batch_stats/", P(), optional=True),
    PartitionRule(r"^(step|rng|skipped)$", P()),
)
"""How a train state lies: banks by rows, weights and their moments over `fsdp` and those of the Transformers also over
`tensor`, the rest everywhere."""

GENERAL_RULES = tuple(rule for rule in STATE_RULES if not rule.pattern.endswith((COLUMNS, ROWS)))
"""The same for a model without Transformers, in which their rules would find no leaf."""


def spec_of(rule: PartitionRule, shape: Sequence[int], mesh: Mesh, smallest: int) -> P:
    """Says how a leaf lies under a rule.

    Args:
        rule: the rule.
        shape: of the leaf.
        mesh: the mesh.
        smallest: leaves of fewer numbers are not split by a `Split`.

    Returns:
        The partition.
    """
    if not isinstance(rule.spec, Split):
        return rule.spec
    if math.prod(shape) < smallest:
        return P()
    axes: list[str | None] = [None] * len(shape)
    split = rule.spec.tensor
    if split is not None and -split <= len(shape) and _divides(mesh, "tensor", shape[split]):
        axes[split] = "tensor"
    free = [dim for dim, size in enumerate(shape) if axes[dim] is None and _divides(mesh, "fsdp", size)]
    if free:
        axes[max(free, key=lambda dim: shape[dim])] = "fsdp"
    return P(*axes) if any(axes) else P()


def _divides(mesh: Mesh, axis: str, size: int) -> bool:
    ways: int = mesh.shape[axis]
    return ways > 1 and size >= ways and size % ways == 0


def shardings(tree: PyTree, mesh: Mesh, smallest: int, rules: Sequence[PartitionRule] = STATE_RULES) -> Any:
    """Says how every leaf of a tree lies on a mesh.

    Args:
        tree: arrays or their shapes.
        mesh: the mesh.
        smallest: numbers in the smallest leaf that a `Split` splits.
        rules: the first whose pattern is found in a leaf's path holds.

    Returns:
        A tree of shardings.

    Raises:
        PartitionError: lists all leaves without a rule and all rules without a leaf.
    """
    used: set[str] = set()
    uncovered: list[str] = []

    def place(name: str, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        for rule in rules:
            if re.search(rule.pattern, name):
                used.add(rule.pattern)
                return NamedSharding(mesh, spec_of(rule, leaf.shape, mesh, smallest))
        uncovered.append(name)
        return NamedSharding(mesh, P())

    placed = trees.map_named(place, tree)
    idle = [rule.pattern for rule in rules if rule.pattern not in used and not rule.optional]
    faults = [f"no rule covers {name}" for name in uncovered] + [f"no leaf matches the rule {p}" for p in idle]
    if faults:
        raise PartitionError("sharding rules:\n  " + "\n  ".join(faults))
    return placed
