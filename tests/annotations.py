"""What checks the annotations of the package while tests run: beartype, with the integers that `float` admits."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import IO

import jaxtyping
from beartype import BeartypeConf, FrozenDict, beartype
from flax.linen.linear import PromoteDtypeFn

OVERRIDES = FrozenDict({PromoteDtypeFn: Callable, IO[bytes]: io.IOBase})
"""Types of libraries that cannot be checked at run time: BytesIO has no name or mode, and is an IO[bytes]."""

checked = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=OVERRIDES))


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Without these checks, as users run the package: for what it says itself of faulty input, and for stand-ins."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
