"""Templates that a user types for names, such as `{number:012d}.npz`: fields in braces and nothing that runs."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from wenlan_jax.prepare.raw_items import ReadError

_WIDTH = re.compile(r"([^{}]?[<>^])?0?\d{0,2}(\.\d{1,2})?[a-z]?", re.IGNORECASE)


def check(option: str, template: str, fields: Mapping[str, str | int]) -> None:
    """Checks that a template is made of plain fields, each with a width of two digits at most, if any.

    Args:
        option: names the template in the error.
        template: what the user typed.
        fields: with a value of the kind that each has.

    Raises:
        ReadError: for any other template.
    """
    try:
        parts = list(string.Formatter().parse(template))
        if all(_is_plain(name, spec, conversion, fields) for _, name, spec, conversion in parts):
            template.format(**fields)
            return
        why = "another field, an attribute, an index, a conversion or a width beyond 99"
    except (ValueError, KeyError, IndexError) as error:
        why = str(error)
    names = ", ".join(f"{{{name}}}" for name in fields)
    raise ReadError(
        f"{option} {template[:80]!r}: may hold {names}, each with a width such as :012d or :>12, and text ({why})"
    )


def _is_plain(name: str | None, spec: str | None, conversion: str | None, fields: Mapping[str, str | int]) -> bool:
    return name is None or (name in fields and not conversion and bool(_WIDTH.fullmatch(spec or "")))
