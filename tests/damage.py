"""What becomes of a small file over the years: ways to damage one, by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest


def _in_values(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Changes every number of a JSON file, or of every line of one."""

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: whole(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [whole(inner) for inner in value]
        return change(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    def damage(path: Path) -> None:
        text = path.read_text("utf-8", "replace")
        try:
            path.write_text(json.dumps(whole(json.loads(text))), "utf-8")
        except ValueError:
            path.write_text("".join(f"{line_of(line)}\n" for line in text.splitlines()), "utf-8")

    def line_of(line: str) -> str:
        try:
            return json.dumps(whole(json.loads(line)))
        except ValueError:  # damaged before
            return line

    return damage


def _as(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def _directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


BYTES: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: path.write_bytes(b"") and None,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) and None,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)) and None,
    "not UTF-8": _as(b'{"a": "\xff\xfe\xe9"}\n'),
    "a directory": _directory,
}
"""For files of any kind."""

JSON: dict[str, Callable[[Path], None]] = {
    **BYTES,
    "a list": _as(b"[1, 2]\n"),
    "null": _as(b"null\n"),
    "a text": _as(b'"text"\n'),
    "no fields": _as(b"{}\n"),
    "other fields": _as(b'{"config": 5, "seconds": [], "step": "x", "train/steps": {}}\n'),
    "nested": _as(b"[" * 100_000),
    "numbers as texts": _in_values(str),
    "NaN": _in_values(lambda number: float("nan")),
    "infinite": _in_values(lambda number: float("-inf")),
    "huge": _in_values(lambda number: 10**400),
}
"""For notes in JSON, whole or line by line."""


def params(hows: Collection[str]) -> list[Any]:
    """All of them as parameters of a slow test; a few quick ones stand for the others."""
    return [
        how if how in ("empty", "a directory", "huge") else pytest.param(how, marks=pytest.mark.slow) for how in hows
    ]
