"""Small files that our commands leave for later ones: read as what they must be, whatever became of them since.

A note is JSON, or lines of JSON, or arrays. Each reader names the type that it needs, such as a dataclass; a file that
is cut off, of another type, no file at all or not of this world is one `NoteError`, which names it. Knows no jax.
"""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
import stat
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from wenlan_jax.util import atomic_files
from wenlan_jax.util.errors import WenlanError

T = TypeVar("T")
Kind = type[T] | types.GenericAlias | types.UnionType
"""A class, or a type such as `dict[str, float]`, which is none."""

LARGEST = 2**28
"""Bytes of a note that is read whole; ours have some thousands."""

DAMAGED = ".damaged"
"""Ends the name of what stood in the place of a file of ours, see `make_way`."""

_WHOLE = 2**63
"""Above every whole number of a note."""


class NoteError(WenlanError, ValueError):
    """A file that is not the note it should be; the message names it and says what is wrong."""


def read(path: Path, kind: Kind[T]) -> T:
    """Reads a note.

    Args:
        path: the file.
        kind: the type that it must have, see `parse`.

    Returns:
        The note.

    Raises:
        NoteError: for a file that is missing, or no such note.
    """
    return parse(read_bytes(path), kind, str(path))


def read_if_any(path: Path, kind: Kind[T]) -> T | None:
    """Reads a note as `read` does; None for one that is missing."""
    return read(path, kind) if path.exists() or path.is_symlink() else None


def parse(text: str | bytes, kind: Kind[T], name: str) -> T:
    """Parses JSON as a type.

    Whole numbers become floats where these are wanted, lists tuples; all else must match, and numbers be finite.

    Args:
        text: JSON.
        kind: a dataclass, whose fields with a default may be missing, or a type such as `dict[str, float]`.
        name: of what is parsed, for messages.

    Returns:
        The value.

    Raises:
        NoteError: says where the JSON is wrong.
    """
    try:
        whole = text.decode("utf-8") if isinstance(text, bytes) else text
        return typing.cast(T, _made(json.loads(whole), kind, ""))
    except _WrongError as error:
        raise NoteError(f"{name}: {error}") from error
    except RecursionError as error:
        raise NoteError(f"{name}: is nested too deeply") from error
    except ValueError as error:
        raise NoteError(f"{name}: is no whole JSON ({error})") from error


def read_lines(
    path: Path, kind: Kind[T], is_right: Callable[[T], bool] = lambda line: True
) -> tuple[list[T], list[int]]:
    """Reads a file that lines of JSON are added to.

    Args:
        path: the file; without it there are no lines.
        kind: the type of a line, see `parse`.
        is_right: what a line of the type must fulfil besides.

    Returns:
        The lines, and the numbers of those that are not whole.

    Raises:
        NoteError: where no regular file is there.
    """
    if not path.exists():
        return [], []
    _check_regular(path)
    found, damaged = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            value = parse(line, kind, str(path))
        except NoteError:
            damaged.append(number)
            continue
        if is_right(value):
            found.append(value)
        else:
            damaged.append(number)
    return found, damaged


def read_figures(path: Path) -> dict[str, float]:
    """Reads what `write_figures` wrote, without the figures that were not finite."""
    figures = read(path, dict[str, float | None])
    return {name: value for name, value in figures.items() if value is not None}


def write_figures(path: Path, figures: Mapping[str, float]) -> None:
    """Writes figures by name, sorted; one that is not finite is null, as JSON has no name for it."""
    atomic_files.write_json(
        path, {name: figures[name] if math.isfinite(figures[name]) else None for name in sorted(figures)}
    )


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads arrays of an .npz file.

    Args:
        path: the file.
        names: the arrays that are wanted.

    Returns:
        Those of them that the file holds.

    Raises:
        NoteError: for a file that is none, or damaged, or missing.
    """
    _check_regular(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise NoteError(f"{path}: is no archive of arrays")
            return {name: arrays[name] for name in names if name in arrays.files}
    except Exception as error:  # a damaged archive raises errors of a dozen kinds
        raise NoteError(f"{path}: is no whole archive of arrays ({type(error).__name__}: {error})") from error


def read_array(path: Path, mapped: bool = False) -> np.ndarray:
    """Reads the array of an .npy file.

    Args:
        path: the file.
        mapped: map it into memory instead of reading it.

    Returns:
        The array.

    Raises:
        NoteError: for a file that is none, or damaged, or missing.
    """
    _check_regular(path)
    try:
        try:
            found = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        except ValueError:  # an empty array cannot be mapped
            found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise NoteError(f"{path}: is no array")
    except Exception as error:  # a damaged header raises errors of a dozen kinds
        raise NoteError(f"{path}: is no whole array ({type(error).__name__}: {error})") from error
    return found


def make_way(path: Path) -> str | None:
    """Renames what stands in the place of a file of ours and is none, such as a directory.

    Args:
        path: the place.

    Returns:
        Its new name; None where nothing was in the way.
    """
    if not path.exists() or path.is_file():
        return None
    names = (f"{path.name}{DAMAGED}{again or ''}" for again in range(10_000))
    free = next(name for name in names if not path.with_name(name).exists())
    path.rename(path.with_name(free))
    return free


def read_bytes(path: Path) -> bytes:
    """Reads the bytes of a note.

    Args:
        path: the file.

    Returns:
        Its content.

    Raises:
        NoteError: for what is missing, no regular file, unreadable, or too large for a note.
    """
    size = _check_regular(path)
    if size > LARGEST:
        raise NoteError(f"{path}: has {size:,} bytes, and a note has at most {LARGEST:,}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise NoteError(f"{path}: cannot be read ({error.strerror})") from error


def _check_regular(path: Path) -> int:
    """The size of a file. Raises NoteError for what is missing or no regular file, such as a pipe, which would hang."""
    try:
        found = path.stat()
    except OSError as error:
        raise NoteError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(found.st_mode):
        raise NoteError(f"{path}: is no regular file")
    return found.st_size


class _WrongError(Exception):
    """A value that is not of the type it must be; becomes a NoteError with the file's name."""


def _made(value: Any, kind: Any, where: str) -> Any:
    """`value` as `kind`; `where` it stands, for the message."""
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _either(value, arguments, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _instance(value, kind, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _check(isinstance(value, dict), where, "an object", value)
        return {name: _made(inner, arguments[1], f"{where}.{name}") for name, inner in value.items()}
    if origin in (list, tuple):
        _check(isinstance(value, list), where, "a list", value)
        return origin(_made(inner, arguments[0], f"{where}[{at}]") for at, inner in enumerate(value))
    return _leaf(value, kind, where)


def _either(value: Any, kinds: Sequence[Any], where: str) -> Any:
    """The value as one of several types, of which null may be one, and else that of the value or the last."""
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    return _made(value, type(value) if type(value) in others else others[-1], where)


def _instance(value: Any, kind: type[T], where: str) -> T:
    _check(isinstance(value, dict), where, "an object", value)
    hints, values = typing.get_type_hints(kind), {}
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in value:
        _check(name in known, f"{where}.{name}", "no such field", value[name])
    for name, field in known.items():
        if name in value:
            values[name] = _made(value[name], hints[name], f"{where}.{name}")
        else:
            optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            _check(optional, f"{where}.{name}", "a value", None)
    return kind(**values)


def _leaf(value: Any, kind: Any, where: str) -> Any:
    if kind is float and type(value) is int and abs(value) < _WHOLE:
        return float(value)
    names: dict[Any, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    fits = type(value) is kind and (kind is not int or abs(value) < _WHOLE)
    _check(fits and (kind is not float or math.isfinite(value)), where, names[kind], value)
    return value


def _check(fits: bool, where: str, needed: str, value: Any) -> None:
    if not fits:
        raise _WrongError(f"{where.lstrip('.') or 'it'}: {needed} is needed, not {reprlib.repr(value)}")
