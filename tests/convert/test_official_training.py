"""Four training steps of the official code on its tiny model, reproduced by the step that trains our models."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import official_brivl
import optax
import pytest

from wenlan_jax.convert import queues
from wenlan_jax.convert.brivl import brivl_table
from wenlan_jax.convert.rules import to_flax, to_torch, unflatten
from wenlan_jax.core import rngs, step, trees
from wenlan_jax.core.state import Momentum, TrainState
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import setup as runs

STEPS = 4
ROUNDING_ONLY = 1e-7
"""Nine leaves have a gradient of rounding only, with norms below this (fixture README)."""


@functools.cache
def facts() -> dict[str, Any]:
    return official_brivl.facts()


@functools.cache
def arrays(name: str) -> dict[str, np.ndarray]:
    stored = official_brivl.arrays(name)
    return {key: value.astype(np.float32) if value.dtype == np.float16 else value for key, value in stored.items()}


def official_config() -> experiment.Config:
    """The tiny model with the official compatibility switches; freezing is that of the released model, the default."""
    known, c = facts(), experiment.default()
    c.mesh.data = 1
    c.data.image_size, c.data.text_length = known["image_size"], known["max_text_len"]
    c.augment.jitter_probability = c.augment.grayscale_probability = 0.0
    c.augment.mean, c.augment.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    c.model.dtype, c.model.embedding = "float32", known["feature_dim"]
    image, bert, sizes = c.model.image, c.model.text.bert, known["text"]
    image.backbone.width_multiplier, image.backbone.depth_multiplier = 0.1, 0.5
    image.batch_norm.mode, image.batch_norm.official_frozen_drift = "batch", True
    image.regions.kind, image.regions.boxes, image.regions.whole_image = "boxes", 37, False
    image.regions.coordinates = "official"
    bert.vocab_size, bert.width, bert.layers = sizes["vocab_size"], sizes["hidden_size"], sizes["num_hidden_layers"]
    bert.heads, bert.feed_forward = sizes["num_attention_heads"], sizes["intermediate_size"]
    bert.positions, bert.attention_mask = sizes["max_position_embeddings"], False
    bert.dropout = image.encoder.dropout = c.model.text.encoder.dropout = 0.0
    c.contrast.bank_size, c.contrast.mask_false_negatives = known["queue_size"], False
    c.contrast.momentum, c.contrast.temperature = known["momentum"], known["temperature"]
    c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay = "sgd", 0.05, 0.0
    c.train.steps, c.train.batch_size = STEPS, known["batch"]
    return experiment.parse(c)


def keep_gradients() -> optax.GradientTransformation:
    """Changes nothing; its state is the gradient of the last step."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, state, params=None: (grads, grads)
    )


def official_start(current: Run) -> TrainState:
    """The fixture's weights in both pairs of towers, and its first queues in the banks."""
    shapes, data = current.shapes, arrays("training")
    template = {tower: {"params": shapes.params[tower]} for tower in ("image", "text")}
    template["image"]["batch_stats"] = shapes.batch_stats["image"]
    towers = unflatten(to_flax(arrays("weights"), brivl_table(), template).leaves)
    params = {tower: towers[tower]["params"] for tower in template}
    stats = {"image": towers["image"]["batch_stats"]}
    batch = facts()["batch"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=stats,
        momentum=Momentum(*jax.tree.map(np.copy, (params, stats))),
        banks={
            name: bank.replace(**queues.to_bank(data[f"{name}_queue_0"], 0, batch))
            for name, bank in shapes.banks.items()
        },
        opt_state=current.recipe.optimizer.init(trees.split(params, current.recipe.is_trained)[0]),
        rng=rngs.root(0),
        skipped=jnp.zeros((), jnp.int32),
    )


def official_batch() -> dict[str, np.ndarray]:
    """The fixture's inputs as the loader gives them, but with images that are normalised already."""
    data = arrays("training")
    return {
        "image": data["images"].transpose(0, 2, 3, 1) * np.float32(255),
        "token_ids": data["ids"].astype(np.int32),
        "token_mask": data["tmask"] == 1,
        "boxes": data["boxes"] / np.float32(facts()["image_size"]),
        "box_mask": data["imask"] == 1,
        "id": np.arange(facts()["batch"], dtype=np.int32),
    }


@dataclasses.dataclass(frozen=True)
class Trained:
    """What four steps left: losses, the trained leaves' first gradient by official key, the queues by step."""

    losses: list[float]
    gradients: dict[str, np.ndarray]
    queues: list[dict[str, np.ndarray]]


@functools.cache
def trained() -> Trained:
    current = runs.set_up(official_config(), jax.devices()[:1])
    recipe = dataclasses.replace(current.recipe, optimizer=optax.chain(current.recipe.optimizer, keep_gradients()))
    state = official_start(dataclasses.replace(current, recipe=recipe))
    one_step = jax.jit(functools.partial(step.train_step, recipe))
    found = Trained([], {}, [])
    for number in range(STEPS):
        state, metrics = one_step(state, official_batch())
        found.losses.append(float(metrics["loss"]))
        found.queues.append({name: queues.from_bank(vars(jax.device_get(b))) for name, b in state.banks.items()})
        if number == 0:
            grads = {tower: {"params": trees.flatten(tree)} for tower, tree in state.opt_state[-1].items()}
            found.gradients.update(to_torch(grads, brivl_table()))
    return found


@pytest.mark.slow
def test_the_losses_are_the_official_ones() -> None:
    """Four steps on one batch: the later ones depend on gradients, momentum, statistics and queues."""
    np.testing.assert_allclose(trained().losses, arrays("training")["losses"], rtol=1e-4)


@pytest.mark.slow
def test_the_trained_leaves_and_their_gradients_are_the_official_ones() -> None:
    norms = facts()["gradient_norms_step_0"]
    assert set(trained().gradients) == set(facts()["trainable"]) == set(norms)
    small = [key for key, norm in norms.items() if norm < ROUNDING_ONLY]
    assert len(small) == 9
    for key, norm in norms.items():
        ours = np.linalg.norm(trained().gradients[key].astype(np.float64))
        if key in small:
            assert ours < 1e-6, key
        else:
            np.testing.assert_allclose(ours, norm, rtol=1e-3, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, STEPS + 1))
def test_the_queues_are_the_official_ones(number: int) -> None:
    """The official pointer has moved by a batch a step; ours are in the order of age."""
    for name, ours in trained().queues[number - 1].items():
        official = np.roll(arrays("training")[f"{name}_queue_{number}"], -number * facts()["batch"], axis=0)
        np.testing.assert_allclose(ours, official, atol=1e-4, err_msg=name)
