"""The parts of the single tower's step, timed one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wenlan_jax.bench import measure
from wenlan_jax.core import rngs, trees
from wenlan_jax.core.state import TrainState
from wenlan_jax.core.task import MicroPairs
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.single_tower.task import SingleTowerTask


def parts(current: Run, state: TrainState, batch: dict[str, jax.Array], repeats: int) -> list[measure.TimedPart]:
    """Times the parts of a step of the single tower, each compiled by itself.

    A fused step can be faster than their sum.

    Args:
        current: the run.
        state: its state.
        batch: on the devices.
        repeats: how often each part is timed.

    Returns:
        The parts.
    """
    recipe = current.recipe
    task, rng = recipe.task, rngs.stream(state.rng, "bench", 0)
    assert isinstance(task, SingleTowerTask)
    tower = task.tower
    trained, frozen = trees.split(state.params, recipe.is_trained)
    features = jax.jit(tower.features)(state.params, state.batch_stats, batch)

    def encoder(part: Any, batch: Any, features: Any) -> jax.Array:
        return tower.encode(trees.merge(part, frozen), batch, features, rng).pooled[:, 0].sum()

    def objective(part: Any, state: TrainState, batch: Any) -> jax.Array:
        keys, _ = task.encode_keys(state, batch, rng)
        pairs = MicroPairs(jnp.arange(len(keys["id"])), keys)
        return task.micro_loss(trees.merge(part, frozen), state, batch, pairs, keys, rng).loss

    actions: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
    if tower.backbone is not None:
        actions["backbone and pooling"] = (tower.features, (state.params, state.batch_stats, batch))
    actions |= {
        "encoder, both ways": (jax.grad(encoder), (trained, batch, features)),
        "objective, both ways": (jax.grad(objective), (trained, state, batch)),
    }
    found = [measure.timed(name, function, arguments, repeats) for name, (function, arguments) in actions.items()]
    return [*found, measure.optimiser(current, state, repeats)]
