"""Settings as frozen dataclasses: fields with defaults, units and choices, read from Python files and checked whole.

A schema declares its fields with `field` and `section`. A file's `get_config()` returns an ml_collections `ConfigDict`;
`--config.FIELD=value` sets single fields; every fault is found before one is raised. Knows no particular field.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import math
import runpy
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from absl import flags
from ml_collections import config_dict, config_flags

from wenlan_jax.util.errors import WenlanError, counted

T = TypeVar("T")


LARGEST_WHOLE = 2**31 - 1
"""Of a whole number whose field gives no limit: steps, rows and sizes are counted in 32 bits on accelerators."""


class ConfigError(WenlanError, ValueError):
    """Settings that cannot be used; the message lists every fault found, one a line."""


class Faults(list[str]):
    """The faults of a configuration, one message each, the name of the field first."""

    def check(self, ok: bool, message: str) -> None:
        """Adds a fault unless all is well.

        Args:
            ok: whether it is.
            message: what is wrong otherwise.
        """
        if not ok:
            self.append(message)


def field(
    default: T,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    free: bool = False,
    each: Callable[[str], str] | None = None,
    among: Callable[[], Sequence[str]] | None = None,
) -> T:
    """Declares a field of a schema; a type that is a `Literal` says the choices.

    Args:
        default: the default value.
        doc: what the field means, with its unit and source.
        low: the least number, or the least of every number where the field is a tuple; None for no limit.
        high: the greatest number likewise. Whole numbers go up to `LARGEST_WHOLE` unless it says otherwise; what is not
            finite is refused everywhere.
        free: the field may change on resume, as it does not change the result.
        each: the one spelling of an element of a tuple; the ValueError that it raises is a fault of the field.
        among: the choices where only the installation knows them; asked for when a value is checked.

    Returns:
        A dataclass field, typed as its default.

    Example:
        `batch_size: int = field(64, "pairs a step", low=1)`
    """
    metadata = {"doc": doc, "low": low, "high": high, "free": free, "each": each, "among": among}
    return dataclasses.field(default=default, metadata=metadata)


def section(kind: type[T], *, free: bool = False) -> T:
    """Declares a nested section of a schema.

    Args:
        kind: the dataclass of the section.
        free: marks every field in it, see `field`.

    Returns:
        A dataclass field, typed as the section.
    """
    return dataclasses.field(default_factory=kind, metadata={"free": free})


def fields(kind: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Iterates over every leaf field, in the order of the schema.

    Args:
        kind: the dataclass of the schema.
        prefix: of the paths.

    Yields:
        Dotted path, schema field and declared type.
    """
    hints = typing.get_type_hints(kind)
    for one in dataclasses.fields(kind):
        path = prefix + one.name
        if dataclasses.is_dataclass(hints[one.name]):
            yield from fields(hints[one.name], path + ".")
        else:
            yield path, one, hints[one.name]


def choices_of(hint: Any, one: dataclasses.Field[Any] | None = None) -> tuple[str, ...]:
    """Lists the values that a field may have.

    Args:
        hint: its type.
        one: the field itself, for choices that only the installation knows.

    Returns:
        The choices; none where neither the type is a `Literal` nor `among` names them.
    """
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    among = None if one is None else one.metadata.get("among")
    return () if among is None else tuple(among())


def replaced(settings: T, values: Mapping[str, Any]) -> T:
    """Sets fields, which are not checked.

    Args:
        settings: the settings.
        values: by dotted path.

    Returns:
        The changed settings.
    """
    sections: dict[str, dict[str, Any]] = {}
    changes: dict[str, Any] = {}
    for path, value in values.items():
        name, dot, rest = path.partition(".")
        if dot:
            sections.setdefault(name, {})[rest] = value
        else:
            changes[name] = value
    changes |= {name: replaced(getattr(settings, name), inner) for name, inner in sections.items()}
    return dataclasses.replace(settings, **changes)  # type: ignore[type-var]


def value_of(settings: Any, path: str) -> Any:
    """Returns the value of the field of a dotted path."""
    return functools.reduce(getattr, path.split("."), settings)


@dataclasses.dataclass(frozen=True)
class SettingsForm(Generic[T]):
    """One kind of settings: how they are read, checked and described.

    Attributes:
        schema: the dataclass of all fields.
        folder: where its files lie, for messages.
        clashes: the faults that concern several fields together, of settings whose fields are each in order.
    """

    schema: type[T]
    folder: str
    clashes: Callable[[T], Iterable[str]]

    def default(self) -> config_dict.ConfigDict:
        """Makes a ConfigDict of the defaults, to be changed."""
        return config_dict.ConfigDict(dataclasses.asdict(self.schema()))  # type: ignore[call-overload]

    def describe(self, word: str = "") -> str:
        """Writes the reference of the fields, for `--help`: name, default, meaning.

        Args:
            word: only those with this in their name or meaning, in any case; all by default.

        Returns:
            Two lines or more a field.
        """
        lines = []
        for path, one, hint in fields(self.schema):
            if word.lower() not in f"{path} {one.metadata['doc']}".lower():
                continue
            named = choices_of(hint, one)
            choices = f" One of {', '.join(named)}." if named else ""
            lines.append(f"  --config.{path}={one.default!r}\n      {one.metadata['doc']}.{choices}")
            element = _element(hint)
            lines += [
                f"      {part.name!r}: {part.default!r}  {part.metadata['doc']}"
                for part in (dataclasses.fields(element) if element is not None else ())
            ]
        return "\n".join(lines)

    def parse(self, source: config_dict.ConfigDict | Mapping[str, Any]) -> T:
        """Checks settings and makes them typed.

        Args:
            source: a ConfigDict, or nested mappings.

        Returns:
            The settings.

        Raises:
            ConfigError: lists every unknown, missing, mistyped or clashing field.
        """
        values = source.to_dict() if isinstance(source, config_dict.ConfigDict) else dict(source)
        faults: list[str] = []
        settings = _build(self.schema, values, "", faults)
        faults = faults or list(self.clashes(settings))
        if faults:
            raise ConfigError(_list(faults))
        return settings

    def load(self, path: Path, overrides: Sequence[str] = ()) -> T:
        """Loads and checks the settings of a file.

        Args:
            path: a Python file whose `get_config()` returns a ConfigDict.
            overrides: `--config.field=value` each.

        Returns:
            The settings.

        Raises:
            ConfigError: for a file that is missing or does not run, or the faults that `override` lists.
        """
        if not path.is_file():
            raise ConfigError(f"{path}: no such configuration file; see {self.folder}")
        try:
            with _earlier_names(path.read_text(encoding="utf-8")):
                base = runpy.run_path(str(path))["get_config"]()
        except Exception as error:
            raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
        if not isinstance(base, config_dict.ConfigDict):
            raise ConfigError(f"{path}: get_config() must return a ConfigDict, not {base!r}")
        return self.override(base, overrides)

    def override(self, base: config_dict.ConfigDict, overrides: Sequence[str]) -> T:
        """Overrides fields, read by ml_collections, and checks the whole.

        Args:
            base: the settings to change; it stays as it is.
            overrides: `--config.field=value` each.

        Returns:
            The settings.

        Raises:
            ConfigError: lists every fault: fields that do not exist, values of a wrong type or range, clashes.
        """
        known = [name for name, _, _ in fields(self.schema)]
        faults: list[str] = []
        base = config_dict.ConfigDict(base.to_dict())  # ml_collections sets values in place
        for text in overrides:
            name, equals, _ = text.removeprefix("--config.").partition("=")
            if not equals:
                faults.append(f"{text}: write --config.{name}=VALUE")
            elif name not in known:
                faults.append(unknown_field(name, known))
            else:
                # One at a time, so that a wrong value does not hide the next one.
                values = flags.FlagValues()
                holder = config_flags.DEFINE_config_dict("config", base, flag_values=values, sys_argv=["wenlan", text])
                try:
                    values(["wenlan", text])
                    base = holder.value
                except (flags.Error, TypeError, ValueError) as error:
                    faults.append(f"{name}: {error}")
        try:
            settings = self.parse(base)
        except ConfigError as error:
            faults += str(error).split("\n  ")[1:]
        if faults:
            raise ConfigError(_list(faults))
        return settings


EARLIER_NAMES = {
    "wenlan_jax.config_single": "wenlan_jax.tasks.single_tower.presets",
    "wenlan_jax.data.clean": "wenlan_jax.prepare.clean",
}
"""Modules that files of configurations import under the names of earlier versions, and where they are now."""


@contextlib.contextmanager
def _earlier_names(text: str) -> Iterator[None]:
    """While a file with this text runs, lets it import modules by the names that they had in earlier versions."""
    named = {
        old: new for old, new in EARLIER_NAMES.items() if old.rpartition(".")[2] in text and old not in sys.modules
    }
    sys.modules.update({old: importlib.import_module(new) for old, new in named.items()})
    try:
        yield
    finally:
        for old in named:
            sys.modules.pop(old, None)


def _element(hint: Any) -> type | None:
    """The section that a field is a tuple of, if it is."""
    inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
    return inner if dataclasses.is_dataclass(inner) and isinstance(inner, type) else None


def _list(faults: Sequence[str]) -> str:
    return f"{counted(len(faults))} in the configuration:\n  " + "\n  ".join(faults)


def unknown_field(path: str, known: Iterable[str]) -> str:
    """Writes the message for a field that the schema does not have, with the nearest one it has."""
    there = list(known)
    near = difflib.get_close_matches(path, there, n=1, cutoff=0.8)
    if near:
        return f"{path}: no such field; did you mean {near[0]}?"
    section = path.rpartition(".")[0] + "."
    inside = sorted({one.removeprefix(section).split(".")[0] for one in there if one.startswith(section)})
    listed = f"{section}* has {', '.join(inside)}" if inside and section != "." else "`wenlan fields` lists them"
    return f"{path}: no such field; {listed}"


def _build(kind: type[T], values: Mapping[str, Any], prefix: str, faults: list[str]) -> T:
    hints = typing.get_type_hints(kind)
    faults += [unknown_field(prefix + name, (prefix + key for key in hints)) for name in values if name not in hints]
    known: dict[str, Any] = {}
    for one in dataclasses.fields(kind):  # type: ignore[arg-type]
        path, hint = prefix + one.name, hints[one.name]
        if one.name not in values:
            faults.append(f"{path}: missing; start from default()")
        elif dataclasses.is_dataclass(hint):
            if isinstance(values[one.name], Mapping):
                known[one.name] = _build(hint, values[one.name], path + ".", faults)  # type: ignore[arg-type]
            else:
                faults.append(f"{path}: a section is needed here, not {values[one.name]!r}")
        elif (element := _element(hint)) is not None:
            known[one.name] = _elements(values[one.name], element, path, faults)
        else:
            known[one.name] = _leaf(values[one.name], hint, one, path, faults)
    return kind(**known)


def _elements(value: Any, kind: type, path: str, faults: list[str]) -> tuple[Any, ...]:
    """A tuple of sections, each a mapping in which what is not written has its default."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
        faults.append(f"{path}: a tuple of dicts is needed, not {value!r}")
        return ()
    default = dataclasses.asdict(kind())
    return tuple(_build(kind, {**default, **item}, f"{path}[{at}].", faults) for at, item in enumerate(value))


def _leaf(value: Any, hint: Any, one: dataclasses.Field[Any], path: str, faults: list[str]) -> Any:
    """The value of a field, or its default where the value is of another type."""
    metadata = one.metadata
    choices = choices_of(hint, one)
    try:
        value = _coerce(value, str if choices else hint)
    except (TypeError, OverflowError):  # a whole number may be too large for any other
        faults.append(f"{path}: {_type_name(str if choices else hint)} is needed, not {value!r}")
        return one.default
    if choices and value not in choices:
        faults.append(f"{path}: one of {', '.join(choices)} is needed, not {value!r}")
        return one.default
    within = f" in {value!r}" if isinstance(value, tuple) else ""
    faults += [
        f"{path}: {fault}{within}" for fault in map(functools.partial(range_fault, metadata), numbers(value)) if fault
    ]
    if metadata["each"] is not None:
        try:
            value = tuple(dict.fromkeys(map(metadata["each"], value)))
        except ValueError as error:
            faults.append(f"{path}: {error}")
    return value


def numbers(value: Any) -> Iterator[int | float]:
    """Iterates over the numbers of a value, which may be a tuple of tuples."""
    if isinstance(value, tuple):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def range_fault(metadata: Mapping[str, Any], number: int | float) -> str:
    """Says what is wrong with the size of a number, by `low` and `high` of its field; '' if nothing."""
    if isinstance(number, float) and not math.isfinite(number):
        return f"a finite number is needed, not {number!r}"
    low, high = metadata["low"], metadata["high"]
    if isinstance(number, int):
        low, high = (-LARGEST_WHOLE if low is None else low), (LARGEST_WHOLE if high is None else high)
    if low is not None and number < low:
        return f"at least {low:g} is needed, not {number!r}"
    if high is not None and number > high:
        return f"at most {_limit(high)} is needed, not {number!r}"
    return ""


def _limit(number: int | float) -> str:
    return f"{number:,}" if isinstance(number, int) and number >= 10**6 else f"{number:g}"


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _coerce(value: Any, hint: Any) -> Any:
    """`value` as the declared type: lists become tuples, whole numbers floats; all else must match."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_coerce(item, typing.get_args(hint)[0]) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise TypeError
    return value
