"""What a command says to the person at the terminal."""

from __future__ import annotations

import jax


def say(message: str) -> None:
    """Prints one line, from the first process of a job only.

    Args:
        message: the line, without its end.
    """
    if jax.process_index() == 0:
        print(message, flush=True)
