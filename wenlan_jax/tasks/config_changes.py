"""What differs between a saved configuration and another: results of both can be told apart by it."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from wenlan_jax.config import settings
from wenlan_jax.tasks import registry
from wenlan_jax.tasks.schema import Config


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _free_fields(kind: type = Config, prefix: str = "", inherited: bool = False) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for one in dataclasses.fields(kind):
        free = inherited or one.metadata.get("free", False)
        if dataclasses.is_dataclass(hints[one.name]):
            yield from _free_fields(hints[one.name], f"{prefix}{one.name}.", free)
        elif free:
            yield prefix + one.name


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the fields that came later to a saved configuration, at their defaults: those keep what was before them.

    Args:
        saved: the saved configuration, as nested mappings.

    Returns:
        The same with every field of today.
    """
    return _overlay(dataclasses.asdict(Config()), saved)


def _overlay(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    inner = {
        name: _overlay(base[name], value)
        for name, value in values.items()
        if isinstance(base.get(name), dict) and isinstance(value, Mapping)
    }
    return {**base, **values, **inner}


def changes_of_start(started: Mapping[str, Any], wanted: Config) -> list[str]:
    """Compares the configuration that a run started with and the one it should have started with.

    What is measured counts, too; what a start works out from the data counts only where that is not left to it.

    Args:
        started: the saved configuration, as nested mappings.
        wanted: the configuration that is asked for.

    Returns:
        The differences, as `changes` tells them.
    """
    task = registry.of(wanted)
    left_to_it = {
        task.vocabulary: settings.value_of(wanted, task.vocabulary) == 0,
        **dict.fromkeys(task.settled_fields, True),
        "train.steps": bool(wanted.train.epochs),
        "optimizer.warmup_steps": bool(wanted.optimizer.warmup_fraction),
        "eval.every": bool(wanted.eval.every_epochs),
    }
    free = {name for name in _free_fields() if not name.startswith("eval.")}
    return _differences(started, wanted, free | {name for name, is_free in left_to_it.items() if is_free})


def changes(saved: Mapping[str, Any], now: Config) -> list[str]:
    """Compares a saved configuration with another, without the fields that do not change a result.

    Args:
        saved: the saved configuration, as nested mappings.
        now: the other.

    Returns:
        One message for each field that differs.
    """
    return _differences(saved, now, set(_free_fields()))


def _differences(saved: Mapping[str, Any], now: Config, ignored: Collection[str]) -> list[str]:
    old, new = (_flat(json.loads(json.dumps(tree))) for tree in (completed(saved), dataclasses.asdict(now)))
    return [
        f"{name}: saved {old.get(name, 'nothing')!r}, now {new.get(name, 'nothing')!r}"
        for name in sorted((old.keys() | new.keys()) - set(ignored))
        if old.get(name) != new.get(name)
    ]
