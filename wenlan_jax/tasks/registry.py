"""Tasks by name, the step's recipe for a configuration, and the batches that it trains on."""

from __future__ import annotations

from jax.sharding import Mesh

from wenlan_jax import optim, schema, single_data, training_data
from wenlan_jax.data.loader import TrainMaker
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.step import Recipe
from wenlan_jax.tasks.base import Task
from wenlan_jax.tasks.brivl import BriVL
from wenlan_jax.tasks.clip import Clip
from wenlan_jax.tasks.single import Single

TASKS: dict[str, type[BriVL] | type[Clip] | type[Single]] = {
    "brivl": BriVL,
    "clip": Clip,
    **dict.fromkeys(schema.SINGLE_TASKS, Single),
}


def recipe(config: schema.Config, mesh: Mesh) -> Recipe:
    """The step's recipe for a configuration on a mesh: task, optimiser, schedule, freezing, accumulation."""
    norm = config.model.image.batch_norm
    task: Task = TASKS[config.task](config, mesh)
    return Recipe(
        task=task,
        optimizer=optim.create(config.optimizer),
        schedule=optim.schedule(config.optimizer, config.train.steps),
        freeze=config.model.freeze,
        accumulation=config.train.accumulation,
        halt=config.train.non_finite == "stop",
        unit=norm.group_size if norm.mode == "group" and config.task not in schema.SINGLE_TASKS else 1,
    )


def batches(config: schema.Config, tokenizer: Tokenizer, share: tuple[int, ...]) -> TrainMaker:
    """The places `share` of every training batch of the configuration's task."""
    make = single_data.batches if config.task in schema.SINGLE_TASKS else training_data.batches
    return make(config, tokenizer, share)
