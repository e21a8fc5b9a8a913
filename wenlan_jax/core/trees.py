"""Trees of arrays addressed by paths such as `image/backbone/conv_stem/kernel`.

One spelling of a leaf's name for freezing, sharding, checkpoints, conversion and error messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, PyTree

from wenlan_jax.models.arrays import Array

T = TypeVar("T")


def path_name(path: Sequence[Any]) -> str:
    """A key path of `jax.tree_util` as names joined by slashes."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def flatten(tree: PyTree) -> dict[str, Any]:
    """The leaves of `tree` by name, in tree order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def map_named(function: Callable[..., Any], tree: T, *rest: Any) -> T:
    """`function(name, leaf, ...)` over the leaves of `tree` and of `rest`, trees of the same structure."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), tree, *rest)


def matches(patterns: Sequence[str], name: str) -> bool:
    """Whether any of the regular expressions is found in `name`."""
    return any(re.search(pattern, name) for pattern in patterns)


def split(tree: T, keep: Callable[[str], bool]) -> tuple[T, T]:
    """Two trees of the structure of `tree`: the leaves whose name `keep` accepts, and the others; None elsewhere.

    jax takes None for an empty subtree, so either half can be differentiated, optimised or counted by itself.
    """
    kept = map_named(lambda name, leaf: leaf if keep(name) else None, tree)
    others = map_named(lambda name, leaf: None if keep(name) else leaf, tree)
    return kept, others


def merge(first: T, second: T) -> T:
    """The tree that `split` took apart."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda leaf: leaf is None)


def select(condition: Bool[Array, ""], if_true: T, if_false: T) -> T:
    """`if_true` or `if_false` by a traced condition, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every floating-point leaf is finite everywhere."""
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack(finite).all() if finite else jnp.asarray(True)


def size(tree: PyTree) -> int:
    """The number of numbers in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
