"""The base of all errors that are explained to a user."""

from __future__ import annotations


class WenlanError(Exception):
    """A fault outside this package: input, configuration, environment. The message names it and says what to do.

    Commands print the message alone; any other error is a fault of the package and keeps its traceback.
    """
