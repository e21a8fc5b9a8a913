"""Which parts of a model are recomputed in the backward pass, by the fields that the task names for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from wenlan_jax.config import settings
from wenlan_jax.tasks import experiment, registry

Choice = Mapping[str, bool]
"""By field of the configuration, whether that part is recomputed."""


def of(config: experiment.Config) -> dict[str, bool]:
    """Says which parts a configuration recomputes, by the field that turns each on."""
    return {field: settings.value_of(config, field) for fields in _parts(config).values() for field in fields}


def choices(config: experiment.Config) -> Iterator[dict[str, bool]]:
    """Iterates over what may be recomputed: nothing, every group of parts alone, and all their combinations.

    Args:
        config: the configuration; its task names the groups.

    Yields:
        By field, whether that part is recomputed.
    """
    groups = [[field for fields in group.values() for field in fields] for group in registry.of(config).remat(config)]
    for chosen in itertools.product((False, True), repeat=len(groups)):
        yield {field: on for on, group in zip(chosen, groups, strict=True) for field in group}


def with_choice(config: experiment.Config, choice: Choice) -> experiment.Config:
    """Sets which parts are recomputed.

    Args:
        config: the configuration.
        choice: by field, whether that part is recomputed.

    Returns:
        The changed configuration.
    """
    return settings.replaced(config, choice)


def without(config: experiment.Config) -> experiment.Config:
    """Turns recomputation off."""
    return with_choice(config, dict.fromkeys(of(config), False))


def text(config: experiment.Config) -> str:
    """Lists the parts that a configuration recomputes, as a person reads them."""
    on = of(config)
    return ", ".join(name for name, fields in _parts(config).items() if any(on[field] for field in fields)) or "nothing"


def _parts(config: experiment.Config) -> dict[str, tuple[str, ...]]:
    """The fields of every part by its name."""
    return {name: fields for group in registry.of(config).remat(config) for name, fields in group.items()}
