"""wenlan_jax: train, reproduce, study and ship BriVL and its family in JAX.

`wenlan_jax.train` trains a model, `wenlan_jax.load` loads a trained one. Nothing is imported before it is asked for:
data workers import this package without jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wenlan_jax.api import Model as Model
    from wenlan_jax.api import load as load
    from wenlan_jax.api import train as train
    from wenlan_jax.tasks.experiment import Config as Config
    from wenlan_jax.util.errors import WenlanError as WenlanError

__version__ = "0.1.0"

_PUBLIC = {"load": "api", "train": "api", "Model": "api", "Config": "tasks.experiment", "WenlanError": "util.errors"}
"""Names of this package by the module that has them."""

__all__ = ["Config", "Model", "WenlanError", "__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
