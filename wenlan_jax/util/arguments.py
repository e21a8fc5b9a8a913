"""Values on the command line: numbers within their range, as in `parser.add_argument("--limit", type=whole(1))`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

LARGEST = 2**31 - 1
LARGEST_SEED = 2**32 - 1


def whole(low: int, high: int = LARGEST) -> Callable[[str], int]:
    """Makes a reader of whole numbers, for `type` of `add_argument`.

    Args:
        low: the least number.
        high: the greatest.

    Returns:
        A function from text to number, which raises ArgumentTypeError for any other.
    """

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"a whole number from {low:,} to {high:,} is needed, not {text!r}")
        return number

    return read


def text(value: str) -> str:
    """Reads what was typed as text, not as the name of a file: in UTF-8, whatever the locale of the process is.

    Args:
        value: as the system gave it.

    Returns:
        The text.

    Raises:
        ArgumentTypeError: for bytes that are no UTF-8.
    """
    try:
        return value.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        told = value.encode("utf-8", "backslashreplace").decode("utf-8")
        raise argparse.ArgumentTypeError(f"{told!r} is no UTF-8; type it in UTF-8") from error


def real(low: float, high: float, inside: bool = False) -> Callable[[str], float]:
    """Makes a reader of finite numbers, for `type` of `add_argument`.

    Args:
        low: the least number.
        high: the greatest.
        inside: whether the limits themselves are refused.

    Returns:
        A function from text to number, which raises ArgumentTypeError for any other.
    """
    range_of = f"between {low:g} and {high:g}" if inside else f"from {low:g} to {high:g}"

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and low <= number <= high) or (inside and number in (low, high)):
            raise argparse.ArgumentTypeError(f"a number {range_of} is needed, not {text!r}")
        return number

    return read
