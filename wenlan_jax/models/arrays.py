"""Arrays in annotations, dataclasses of arrays, and vectors along the last axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import struct
from jaxtyping import Shaped

if TYPE_CHECKING:
    from jax import Array as Array
else:
    # While tests check annotations, NumPy's arrays pass as well: every function of JAX takes them.
    Array = jax.Array | np.ndarray


class Tree(struct.PyTreeNode):
    """A dataclass of arrays, which JAX maps over; its fields say their shapes and dtypes.

    They are not checked: where a tree is mapped, shapes, shardings and masks stand in the places of the arrays.
    """

    __no_type_check__ = True


def along_last(vector: Shaped[Array, " n"], rank: int) -> Shaped[Array, "*ones n"]:
    """Gives a vector as many axes as an array has: ranks are never promoted in silence.

    Args:
        vector: the values along the last axis.
        rank: the number of axes.

    Returns:
        The vector as the last of `rank` axes; the others have length 1.
    """
    return jax.lax.expand_dims(vector, range(rank - 1))
