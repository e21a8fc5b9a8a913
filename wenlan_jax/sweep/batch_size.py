"""A configuration at another batch size, for tables whose rows differ in it."""

from __future__ import annotations

import dataclasses
from typing import Any

from wenlan_jax.sweep.table import TableError
from wenlan_jax.tasks import experiment

COUNTED_IN_STEPS = (
    "train.steps",
    "checkpoint.every",
    "eval.every",
    "contrast.bank_from_step",
    "optimizer.warmup_steps",
)


def resized(base: experiment.Config, batch: int, pairs: int) -> dict[str, Any]:
    """Makes overrides that train a configuration with another batch.

    What it counts in steps keeps its share of the run.

    The learning rate goes with the root of the batch up to the batch of `base`, and is that of `base` from there on.

    Args:
        base: the configuration.
        batch: pairs a step.
        pairs: pairs of the whole run.

    Returns:
        Values by dotted field.

    Raises:
        TableError: where a share is no whole number of steps.
    """
    overrides: dict[str, Any] = {
        "train.batch_size": batch,
        "optimizer.learning_rate": base.optimizer.learning_rate * min(batch / base.train.batch_size, 1.0) ** 0.5,
    }
    values = dataclasses.asdict(base)
    for name in COUNTED_IN_STEPS:
        section, field = name.split(".")
        overrides[name], rest = divmod(values[section][field] * pairs, base.train.steps * batch)
        if rest:
            raise TableError(f"{name}: its share of {pairs:,} pairs is no whole number of steps of {batch}")
    return overrides
