"""References to code that is imported when it is first called."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any


@dataclasses.dataclass(frozen=True)
class LateCallable:
    """A callable named by where it is, which is imported when it is first called.

    A table of such references costs nothing to import, whatever the modules behind it need.

    Attributes:
        place: `module:object`.
    """

    place: str

    def resolve(self) -> Any:
        """Imports the module and returns the object.

        Raises:
            ImportError: the module cannot be imported.
            AttributeError: it has no such object.
        """
        module, _, name = self.place.partition(":")
        found = importlib.import_module(module)
        if not hasattr(found, name):
            raise AttributeError(f"{module} has no {name!r}, which {self.place} names")
        return getattr(found, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.resolve()(*arguments, **options)


def late(place: str) -> Any:
    """Makes a reference to the callable at `module:object`.

    Args:
        place: `module:object`.

    Returns:
        A `LateCallable`; typed as `Any`, as a type checker cannot see behind it.
    """
    return LateCallable(place)
