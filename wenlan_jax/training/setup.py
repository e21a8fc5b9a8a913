"""What every command that touches a model sets up: tokenizer, mesh, recipe, shapes and shardings of the state."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax

from wenlan_jax.core import rngs, step
from wenlan_jax.core.state import TrainState
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.parallel import interruptible_calls, partition
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks import experiment, registry
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.step_recipe import recipe as make_recipe
from wenlan_jax.util import host_memory


def set_up(config: experiment.Config, devices: Sequence[jax.Device] | None = None) -> Run:
    """Makes the run of a configuration; nothing large exists yet.

    Args:
        config: the configuration; its vocabulary size must be known.
        devices: the devices to run on; None for all.

    Returns:
        Mesh, recipe, and the shapes and shardings of the state.

    Raises:
        ConfigError: where sizes do not go together, which the modules see that are built of them.
        MeshError: if the devices cannot form the mesh, or the batch does not divide over it.
        FreezeError: if `model.freeze` matches nothing, or everything.
    """
    mesh = meshes.create(config.mesh, devices)
    meshes.check_batch(mesh, config.train.batch_size // config.train.accumulation, "train.batch_size / accumulation")
    recipe = make_recipe(config, mesh)
    try:
        shapes = jax.eval_shape(functools.partial(step.init_state, recipe), rngs.root(config.seed))
    except ValueError as error:
        raise experiment.ConfigError(f"{registry.of(config).sizes}: this model cannot be built: {error}") from error
    step.check_freeze(recipe, shapes.params)
    rules = partition.STATE_RULES if registry.of(config).transformers else partition.GENERAL_RULES
    return Run(config, mesh, recipe, shapes, partition.shardings(shapes, mesh, config.mesh.smallest_split, rules))


def fresh_state(run: Run) -> TrainState:
    """Makes the state before the first step, on the devices where it is to lie."""
    make = jax.jit(functools.partial(step.init_state, run.recipe), out_shardings=run.shardings)
    return interruptible_calls.aloud(
        "initialising the model", lambda: jax.block_until_ready(make(rngs.root(run.config.seed)))
    )


def compile_step(run: Run, batch: dict[str, jax.Array] | dict[str, jax.ShapeDtypeStruct]) -> Any:
    """Compiles the training step.

    Args:
        run: the run.
        batch: a batch, or its shapes with their shardings.

    Returns:
        The compiled step `(state, batch) -> (state, metrics)`, which consumes its state.
    """
    if meshes.platform(run.mesh) == "cpu":
        host_memory.keep_freed_memory()
    abstract = jax.tree.map(
        lambda shape, at: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=at),
        run.shapes,
        run.shardings,
    )
    whole = jax.jit(
        functools.partial(step.train_step, run.recipe),
        out_shardings=(run.shardings, meshes.replicated(run.mesh)),
        donate_argnums=0,
    )
    return interruptible_calls.aloud("compiling the training step", lambda: whole.lower(abstract, batch).compile())


def with_vocabulary(config: experiment.Config, tokenizer: Tokenizer) -> experiment.Config:
    """Settles the size of the word table.

    Args:
        config: the configuration.
        tokenizer: the tokenizer of the run.

    Returns:
        The configuration; a size of 0 becomes that of the tokenizer.

    Raises:
        ConfigError: if the table is too small.
    """
    field, rows = experiment.vocabulary(config)
    if rows == 0:
        return experiment.with_vocabulary(config, tokenizer.size)
    if rows < tokenizer.size:
        raise experiment.ConfigError(
            f"{field}: {rows} rows for the {tokenizer.size} pieces of the tokenizer "
            f"{config.tokenizer.path or 'trained for this run'}; use at least {tokenizer.size}, or 0 to fit"
        )
    return config
