"""The base of all errors that are explained to a user."""

from __future__ import annotations


class WenlanError(Exception):
    """A fault outside this package: input, configuration, environment. The message names it and says what to do.

    Commands print the message alone; any other error is a fault of the package and keeps its traceback.
    """


def counted(faults: int) -> str:
    """Counts faults in words: `1 fault`, `2 faults`."""
    return f"{faults} fault" if faults == 1 else f"{faults} faults"
