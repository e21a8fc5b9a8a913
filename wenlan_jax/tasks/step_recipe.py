"""The step's recipe for a configuration: its task, optimiser and schedule, what is frozen, accumulation."""

from __future__ import annotations

from jax.sharding import Mesh

from wenlan_jax.core import optim
from wenlan_jax.core.step import StepRecipe
from wenlan_jax.tasks import experiment, registry


def recipe(config: experiment.Config, mesh: Mesh) -> StepRecipe:
    """Makes the step's recipe for a configuration.

    Args:
        config: the configuration; its vocabulary size must be known.
        mesh: the devices to train on.

    Returns:
        Task, optimiser and schedule, what is frozen, and how a batch is split.
    """
    task = registry.of(config)
    return StepRecipe(
        task=task.create(config, mesh),
        optimizer=optim.create(config.optimizer),
        schedule=optim.schedule(config.optimizer, config.train.steps),
        freeze=config.model.freeze,
        accumulation=config.train.accumulation,
        halt=config.train.non_finite == "stop",
        unit=task.micro_batch_unit(config),
    )
