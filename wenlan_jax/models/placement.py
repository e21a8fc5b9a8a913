"""Where arrays lie when a model runs on many devices: hooks that the models call and know nothing more about.

Weights that are split over the same devices as the batch leave a compiler the choice to gather the weights or the
activations. Models mark activations whose first axis is the batch with `rows`, and weights that are looked up rather
than multiplied with `whole`; who runs a model on a mesh says with `placing` how those lie, and the compiler is left
with the weights to gather. Without `placing` the marks do nothing.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import NamedTuple

from wenlan_jax.models.arrays import Array


class Places(NamedTuple):
    """How the arrays of a model lie; each function returns its argument, placed.

    Attributes:
        rows: places arrays whose first axis is the batch.
        inner: places such arrays whose other axes may be split as well.
        whole: places arrays that every device holds in full.
    """

    rows: Callable[[Array], Array]
    inner: Callable[[Array], Array]
    whole: Callable[[Array], Array]


_places: contextvars.ContextVar[Places | None] = contextvars.ContextVar("places", default=None)


def rows(x: Array) -> Array:
    """Returns the same values, placed as the rows of a batch; their gradient too."""
    places = _places.get()
    return x if places is None else places.rows(x)


def inner(x: Array) -> Array:
    """Returns the same values, placed as `rows` does; the other axes may be split.

    For values between two products.
    """
    places = _places.get()
    return x if places is None else places.inner(x)


def whole(x: Array) -> Array:
    """Returns the same values, all of them on every device."""
    places = _places.get()
    return x if places is None else places.whole(x)


@contextlib.contextmanager
def placing(places: Places | None) -> Iterator[None]:
    """Decides how the arrays of models lie that are traced inside this context.

    Args:
        places: how arrays lie; None leaves it to the compiler.
    """
    token = _places.set(places)
    try:
        yield
    finally:
        _places.reset(token)
