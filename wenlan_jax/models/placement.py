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
    """Functions that return their argument, placed. `inner`: rows whose other axes may lie as they come."""

    rows: Callable[[Array], Array]
    inner: Callable[[Array], Array]
    whole: Callable[[Array], Array]


_places: contextvars.ContextVar[Places | None] = contextvars.ContextVar("places", default=None)


def rows(x: Array) -> Array:
    """The same values, placed as the rows of a batch; their gradient too."""
    places = _places.get()
    return x if places is None else places.rows(x)


def inner(x: Array) -> Array:
    """As `rows`, for values between two products, which may be split along their other axes."""
    places = _places.get()
    return x if places is None else places.inner(x)


def whole(x: Array) -> Array:
    """The same values, all of them on every device."""
    places = _places.get()
    return x if places is None else places.whole(x)


@contextlib.contextmanager
def placing(places: Places | None) -> Iterator[None]:
    """While models are traced inside, `places` decides how their arrays lie."""
    token = _places.set(places)
    try:
        yield
    finally:
        _places.reset(token)
