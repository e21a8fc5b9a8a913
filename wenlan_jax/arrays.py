"""Arrays in annotations, and dataclasses of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import struct

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
