"""Random batches of the single tower, and its parts timed one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wenlan_jax import optim, rngs, run, schema, trees
from wenlan_jax.bench import measure
from wenlan_jax.state import TrainState
from wenlan_jax.tasks.base import Own
from wenlan_jax.tasks.objectives import NEGATIVE
from wenlan_jax.tasks.single import Single

FIRST_ID = 5
"""Ids below are special in every vocabulary; XLM-R's padding has no position of its own."""


def random_batch(config: schema.Config, seed: int) -> dict[str, np.ndarray]:
    """Random examples in the shapes of `measure.heaviest`: texts at full length, pictures with all regions."""
    rng = np.random.default_rng(seed)
    shapes = measure.heaviest(config)
    return {
        name: _values(name.removeprefix(NEGATIVE), leaf.shape, config, rng).astype(leaf.dtype)
        for name, leaf in shapes.items()
    }


def _values(name: str, shape: tuple[int, ...], config: schema.Config, rng: np.random.Generator) -> np.ndarray:
    """Values that a loader could have given for a field."""
    match name:
        case "token_mask" | "region_mask" | "masked_valid":
            return np.ones(shape)
        case "token_ids" | "masked_ids":
            rows = config.single.vocab_size
            return rng.integers(min(FIRST_ID, rows - 1), rows, shape)
        case "masked_places":
            length = config.pretrain.text_buckets[-1]
            return rng.permuted(np.tile(np.arange(length), (shape[0], 1)), axis=1)[:, : shape[1]]
        case "region_masked":
            masked = rng.random(shape) < config.pretrain.mask_probability
            masked[:, 0] |= ~masked.any(axis=1)
            return masked
        case "region_boxes":
            return np.sort(rng.random((*shape[:-1], 2, 2)), axis=-2).reshape(shape)
        case "region_classes":
            drawn = rng.random(shape)
            return drawn / drawn.sum(-1, keepdims=True)
        case "image":
            return rng.integers(0, 256, shape)
        case "match":
            return rng.integers(0, 2, shape)
        case "id":
            return np.arange(shape[0])
    return rng.random(shape)  # features of regions, scores of answers


def parts(current: run.Run, state: TrainState, batch: dict[str, jax.Array], repeats: int) -> list[measure.Part]:
    """The parts of a step, each compiled and timed by itself; a fused step can be faster than their sum."""
    recipe = current.recipe
    task, rng = recipe.task, rngs.stream(state.rng, "bench", 0)
    assert isinstance(task, Single)
    tower = task.tower
    trained, frozen = trees.split(state.params, recipe.is_trained)
    features = jax.jit(tower.features)(state.params, state.batch_stats, batch)

    def encoder(part: Any, batch: Any, features: Any) -> jax.Array:
        return tower.encode(trees.merge(part, frozen), batch, features, rng).pooled[:, 0].sum()

    def objective(part: Any, state: TrainState, batch: Any) -> jax.Array:
        rows, _ = task.targets(state, batch, rng)
        own = Own(jnp.arange(len(rows["id"])), rows)
        return task.micro_loss(trees.merge(part, frozen), state, batch, own, rows, rng).loss

    actions: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
    if tower.backbone is not None:
        actions["backbone and pooling"] = (tower.features, (state.params, state.batch_stats, batch))
    actions |= {
        "encoder, both ways": (jax.grad(encoder), (trained, batch, features)),
        "objective, both ways": (jax.grad(objective), (trained, state, batch)),
        "optimiser": (
            lambda g, s, p: optim.apply(recipe.optimizer, g, s, p, jnp.float32(1e-4)),
            (trained, state.opt_state, trained),
        ),
    }
    return [measure.timed(name, function, arguments, repeats) for name, (function, arguments) in actions.items()]
