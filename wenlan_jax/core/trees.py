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
    """Joins a key path of `jax.tree_util` by slashes.

    Args:
        path: keys, attributes or indices, as `tree_flatten_with_path` gives them.

    Returns:
        A name such as `image/backbone/conv_stem/kernel`.
    """
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def flatten(tree: PyTree) -> dict[str, Any]:
    """Lists the leaves of a tree by name, in tree order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def map_named(function: Callable[..., Any], tree: T, *rest: Any) -> T:
    """Applies a function to the name and the leaves of trees.

    Args:
        function: called as `function(name, leaf, ...)`.
        tree: the tree that gives the names.
        *rest: trees of the same structure, whose leaves follow.

    Returns:
        The tree of results.
    """
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), tree, *rest)


def matches(patterns: Sequence[str], name: str) -> bool:
    """Says whether any of the regular expressions is found in `name` (`re.search`)."""
    return any(re.search(pattern, name) for pattern in patterns)


def split(tree: T, keep: Callable[[str], bool]) -> tuple[T, T]:
    """Splits a tree into two of the same structure, by the names of its leaves.

    jax takes None for an empty subtree, so either half can be differentiated, optimised or counted by itself.

    Args:
        tree: the tree.
        keep: takes a leaf's name and says whether it goes into the first half.

    Returns:
        The leaves that `keep` accepts, and the others; None elsewhere. `merge` puts them together again.
    """
    kept = map_named(lambda name, leaf: leaf if keep(name) else None, tree)
    others = map_named(lambda name, leaf: None if keep(name) else leaf, tree)
    return kept, others


def merge(first: T, second: T) -> T:
    """Puts together the two trees that `split` made."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda leaf: leaf is None)


def select(condition: Bool[Array, ""], if_true: T, if_false: T) -> T:
    """Chooses between two trees by a traced condition, leaf by leaf.

    Args:
        condition: a boolean scalar.
        if_true: the result if it holds.
        if_false: the result if it does not, a tree of the same structure.

    Returns:
        The chosen tree.
    """
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every floating-point leaf is finite everywhere."""
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack(finite).all() if finite else jnp.asarray(True)


def size(tree: PyTree) -> int:
    """Counts the numbers in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
