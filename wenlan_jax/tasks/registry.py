"""Tasks by name: those of this package, and those that other installed packages add.

A package adds a task by an entry point of the group `wenlan_jax.tasks`, whose name is the task's and whose object is
its `TaskSpec`. A task of this package goes before another of the same name.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from typing import TYPE_CHECKING

from wenlan_jax.tasks.spec import TaskSpec
from wenlan_jax.util.errors import WenlanError
from wenlan_jax.util.late_import import LateCallable

if TYPE_CHECKING:
    from wenlan_jax.tasks.schema import Config

SPECS = {
    "brivl": "wenlan_jax.tasks.two_tower.spec:BRIVL",
    "clip": "wenlan_jax.tasks.two_tower.spec:CLIP",
    "mlmm": "wenlan_jax.tasks.single_tower.spec:MLMM",
    "rank": "wenlan_jax.tasks.single_tower.spec:RANK",
    "vqa": "wenlan_jax.tasks.single_tower.spec:VQA",
}
"""Where the spec of each task of this package is."""

GROUP = "wenlan_jax.tasks"
"""The group of entry points in which other packages list their tasks."""


class TaskError(WenlanError, ValueError):
    """A task that does not exist, or a model of another kind than is needed."""


def names() -> tuple[str, ...]:
    """Lists all tasks that there are, those of this package first."""
    return tuple(dict.fromkeys([*SPECS, *sorted(_of_others())]))


def named(name: str) -> TaskSpec:
    """Finds the task of a name.

    Args:
        name: the value of the field `task`.

    Returns:
        Its spec.

    Raises:
        TaskError: there is none, or what another package registers is no TaskSpec of that name.
    """
    if name in SPECS:
        return _of_this_package(name)
    others = _of_others()
    if name not in others:
        raise TaskError(f"one of {', '.join(names())} is needed, not {name!r}")
    return _checked(name, others[name]())


def of(config: Config) -> TaskSpec:
    """Finds the task of a configuration.

    Args:
        config: the configuration.

    Returns:
        Its spec.

    Raises:
        TaskError: see `named`.
    """
    return named(config.task)


def of_model(model: str) -> tuple[str, ...]:
    """Lists the tasks that train a kind of model.

    Args:
        model: such as `two towers`, see `TaskSpec.model`.

    Returns:
        The names of the tasks.
    """
    return tuple(name for name in names() if named(name).model == model)


@functools.cache
def _of_this_package(name: str) -> TaskSpec:
    return _checked(name, LateCallable(SPECS[name]).resolve())


def _of_others() -> dict[str, Callable[[], object]]:
    """What loads the spec of each task of another package."""
    return {point.name: point.load for point in importlib.metadata.entry_points(group=GROUP)}


def _checked(name: str, found: object) -> TaskSpec:
    if not isinstance(found, TaskSpec) or found.name != name:
        raise TaskError(f"task {name!r} is registered as {found!r}, which is no TaskSpec of that name")
    return found
