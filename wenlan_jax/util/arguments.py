"""Values on the command line: numbers within their range, as in `parser.add_argument("--limit", type=whole(1))`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

LARGEST = 2**31 - 1
LARGEST_SEED = 2**32 - 1


def whole(low: int, high: int = LARGEST) -> Callable[[str], int]:
    """A reader of whole numbers from `low` to `high`."""

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
    """What was typed as text, not as the name of a file: in UTF-8, whatever the locale of the process is."""
    try:
        return value.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        told = value.encode("utf-8", "backslashreplace").decode("utf-8")
        raise argparse.ArgumentTypeError(f"{told!r} is no UTF-8; type it in UTF-8") from error


def real(low: float, high: float, inside: bool = False) -> Callable[[str], float]:
    """A reader of numbers from `low` to `high`, or between them where only the `inside` counts; finite ones."""
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
