"""The train step: accumulation, device counts, freezing, momentum, banks, steps that are not finite."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wenlan_jax.core import momentum, step, trees
from wenlan_jax.core.state import TrainState
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks import experiment
from wenlan_jax.training import setup as runs

Make = Callable[..., experiment.Config]
Batch = Callable[..., dict[str, np.ndarray]]


def start(config: experiment.Config) -> tuple[step.StepRecipe, TrainState]:
    current = runs.set_up(config, jax.devices()[:1])
    return current.recipe, runs.fresh_state(current)


def one_pass(config: experiment.Config, batch: dict[str, np.ndarray]) -> tuple[TrainState, step.PassResult]:
    """A fresh state whose banks hold two batches already, and one pass over `batch`."""
    recipe, state = start(config)
    ready = fill_banks(recipe, state, config)

    def whole(state: TrainState, batch: Any) -> Any:
        done = step.forward_backward(recipe, state, batch)
        return done.grads, done.metrics, done.batch_stats, done.state.momentum

    grads, metrics, stats, averaged = jax.jit(whole)(ready, batch)
    return ready, step.PassResult(ready.replace(momentum=averaged), {}, grads, metrics, stats)


def fill_banks(recipe: step.StepRecipe, state: TrainState, config: experiment.Config) -> TrainState:
    rng = np.random.default_rng(7)
    banks = state.banks
    for number in range(2 if banks else 0):
        keys = rng.normal(size=(config.train.batch_size, config.model.embedding)).astype(np.float32)
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
        ids = np.arange(number * 8, number * 8 + config.train.batch_size, dtype=np.int32)
        banks = recipe.task.push(banks, {"image": keys, "text": keys[::-1], "id": ids}, jnp.asarray(number))
    return state.replace(banks=banks)


def assert_close(first: Any, second: Any, rtol: float, atol: float) -> None:
    one, two = trees.flatten(first), trees.flatten(second)
    assert one.keys() == two.keys()
    for name in one:
        scale = float(np.nanmax(np.abs(one[name]), initial=1.0))
        np.testing.assert_allclose(one[name], two[name], rtol=rtol, atol=atol * scale, err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"contrast__in_batch_negatives": True, "contrast__multi_label_top_k": 3},
        {"task": "clip", "contrast__learnable_temperature": True},
    ],
    ids=["brivl", "clip"],
)
def test_micro_batches_give_the_loss_gradient_and_statistics_of_one_batch(
    tiny: Make, make_batch: Batch, changes: dict[str, Any]
) -> None:
    changes = {**changes, "model__image__batch_norm__group_size": 2, "contrast__mask_false_negatives": True}
    whole, parts = tiny(**changes), tiny(**changes, train__accumulation=4)
    batch = make_batch(whole)
    batch["id"][3] = batch["id"][5]  # one false negative inside the batch
    state, one = one_pass(whole, batch)
    _, four = one_pass(parts, batch)
    np.testing.assert_allclose(one.metrics["loss"], four.metrics["loss"], rtol=1e-6)
    assert_close(one.metrics, four.metrics, rtol=1e-5, atol=1e-6)
    assert_close(one.grads, four.grads, rtol=2e-4, atol=1e-5)
    assert_close(one.batch_stats, four.batch_stats, rtol=1e-5, atol=1e-6)
    if state.momentum is not None:
        assert_close(one.state.momentum, four.state.momentum, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_bank_that_does_not_count_yet_gives_neither_negatives_nor_positives(tiny: Make, make_batch: Batch) -> None:
    late = {"contrast__in_batch_negatives": True, "contrast__bank_from_step": 1}
    batch = make_batch(tiny())
    _, without = one_pass(tiny(**late), batch)
    _, marking = one_pass(tiny(**late, contrast__multi_label_top_k=20), batch)
    _, counting = one_pass(tiny(**{**late, "contrast__bank_from_step": 0}), batch)
    assert marking.metrics["extra_positives"] == 0
    np.testing.assert_allclose(marking.metrics["loss"], without.metrics["loss"], rtol=1e-6)
    assert_close(marking.grads, without.grads, rtol=1e-4, atol=1e-6)
    assert counting.metrics["loss"] > without.metrics["loss"]


@pytest.mark.slow
def test_dropout_is_drawn_alike_in_both_passes_of_clip_accumulation(tiny: Make, make_batch: Batch) -> None:
    """With dropout the micro-batched gradient is still the gradient of the reported loss."""
    config = tiny(task="clip", train__accumulation=2, model__text__encoder__dropout=0.5)
    recipe, state = start(config)
    batch = make_batch(config)
    grads = jax.jit(lambda s: step.forward_backward(recipe, s, batch).grads)(state)
    loss = jax.jit(lambda s: step.forward_backward(recipe, s, batch).metrics["loss"])
    direction = jax.tree.map(lambda g: g / jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(grads))), grads)

    def moved(size: float) -> float:
        trained, frozen = trees.split(state.params, recipe.is_trained)
        shifted = jax.tree.map(lambda p, d: p + size * d, trained, direction)
        return float(loss(state.replace(params=trees.merge(shifted, frozen))))

    slope = (moved(1e-2) - moved(-1e-2)) / 2e-2
    norm = float(jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads))))
    np.testing.assert_allclose(slope, norm, rtol=0.02)


MESHES = {
    "data": {"mesh__data": 8},
    "fsdp": {"mesh__data": 2, "mesh__fsdp": 4},
    "tensor": {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2},
}


@pytest.mark.parametrize(
    ("task", "axes"),
    [
        ("brivl", "data"),
        ("brivl", "tensor"),
        ("clip", "fsdp"),
        pytest.param("brivl", "fsdp", marks=pytest.mark.slow),
        pytest.param("clip", "data", marks=pytest.mark.slow),
        pytest.param("clip", "tensor", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_give_the_loss_and_gradient_of_one(tiny: Make, make_batch: Batch, axes: str, task: str) -> None:
    shared = {"task": task, "contrast__in_batch_negatives": True, "model__image__batch_norm__group_size": 4}
    one, eight = tiny(**shared), tiny(**shared, **MESHES[axes])
    batch = make_batch(one)
    batch["id"][2] = 3  # in the bank already

    def passed(config: experiment.Config, devices: int) -> Any:
        current = runs.set_up(config, jax.devices()[:devices])
        recipe, state = start(one)
        state = jax.device_put(fill_banks(recipe, state, config), current.shardings)
        done = jax.jit(
            lambda s, b: (lambda d: (d.metrics, d.grads, d.batch_stats))(step.forward_backward(current.recipe, s, b))
        )(state, meshes.to_devices(current.mesh, batch))
        return jax.device_get(done)

    few, many = passed(one, 1), passed(eight, 8)
    np.testing.assert_allclose(few[0]["loss"], many[0]["loss"], rtol=1e-6)
    assert (few[0]["masked_negatives"] > 0) == (task == "brivl")
    assert_close(few[0], many[0], rtol=1e-5, atol=1e-6)
    assert_close(few[1], many[1], rtol=1e-3, atol=1e-5)
    assert_close(few[2], many[2], rtol=1e-5, atol=1e-6)


def test_a_step_moves_what_is_trained_and_nothing_else(tiny: Make, make_batch: Batch) -> None:
    config = tiny()
    recipe, state = start(config)
    first, metrics = jax.jit(functools.partial(step.train_step, recipe))(state, make_batch(config))
    second, _ = jax.jit(functools.partial(step.train_step, recipe))(first, make_batch(config, seed=1))
    for name, leaf in trees.flatten(state.params).items():
        moved = not np.array_equal(leaf, trees.flatten(second.params)[name])
        # Attention keys' biases cancel in the softmax: their gradient is zero but for rounding.
        if not name.endswith("key/bias"):
            assert moved == recipe.is_trained(name), name
    frozen = state.batch_stats["image"]["backbone"]["bn1"]
    assert_close(frozen, second.batch_stats["image"]["backbone"]["bn1"], 0, 0)
    # Keys were made by towers averaged before the gradient step, which at step 0 are the query towers.
    assert_close(first.momentum.params, {n: state.params[n] for n in ("image", "text")}, 1e-6, 1e-7)
    towers = {n: first.params[n] for n in ("image", "text")}
    expected = momentum.update(first.momentum.params, towers, config.contrast.momentum)
    assert_close(second.momentum.params, expected, 1e-6, 1e-7)
    assert (int(second.banks["text"].fill), int(metrics["bank_fill"])) == (16, 8)
    np.testing.assert_array_equal(second.banks["image"].ids[1], make_batch(config, seed=1)["id"])
    np.testing.assert_array_equal(second.banks["image"].pushed_at[:2], [0, 1])


@pytest.mark.slow
def test_official_drift_lets_frozen_statistics_move(tiny: Make, make_batch: Batch) -> None:
    config = tiny(model__image__batch_norm__official_frozen_drift=True)
    recipe, state = start(config)
    after, _ = jax.jit(functools.partial(step.train_step, recipe))(state, make_batch(config))
    before, now = (s.batch_stats["image"]["backbone"]["bn1"]["mean"] for s in (state, after))
    assert not np.array_equal(before, now)
    scale = [s.params["image"]["backbone"]["bn1"]["scale"] for s in (state, after)]
    np.testing.assert_array_equal(*scale)


def test_own_images_in_the_bank_are_masked_and_counted(tiny: Make, make_batch: Batch) -> None:
    config = tiny()
    recipe, state = start(config)
    take = jax.jit(functools.partial(step.train_step, recipe))
    batch = make_batch(config)
    for expected in (0.0, 1.0, 2.0):
        state, metrics = take(state, batch)
        assert float(metrics["masked_negatives"]) == expected


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_step_that_is_not_finite_changes_only_the_counters(tiny: Make, make_batch: Batch, policy: str) -> None:
    config = tiny(train__non_finite=policy)
    recipe, state = start(config)
    poisoned = jax.tree.map(lambda leaf: leaf, state)
    name = "image/projection/fc1/kernel"
    poisoned = poisoned.replace(
        params=trees.map_named(lambda n, leaf: leaf.at[0].set(jnp.nan) if n == name else leaf, state.params)
    )
    take = jax.jit(functools.partial(step.train_step, recipe))
    after, metrics = take(poisoned, make_batch(config))
    assert (float(metrics["finite"]), int(after.skipped), int(after.step)) == (0.0, 1, 1)
    assert_close(after.replace(step=0, skipped=0), poisoned.replace(step=0, skipped=0), 0, 0)
    finite = jax.jit(functools.partial(step.finiteness, recipe))(poisoned, make_batch(config))
    assert step.culprits(jax.device_get(finite))[0] == f"params {name}"
    # A sound step after it is taken under 'skip' and refused under 'stop'.
    later, metrics = take(after.replace(params=state.params), make_batch(config))
    assert float(metrics["finite"]) == (1.0 if policy == "skip" else 0.0)
    assert int(later.skipped) == (1 if policy == "skip" else 2)


def test_freezing_patterns_that_do_nothing_or_everything_are_refused(tiny: Make) -> None:
    with pytest.raises(step.FreezeError, match="no parameter matches 'image/bakcbone'"):
        start(tiny(model__freeze=("image/bakcbone",)))
    with pytest.raises(step.FreezeError, match="all parameters are frozen"):
        start(tiny(model__freeze=("",)))


@pytest.mark.slow
def test_bfloat16_computes_close_to_float32_and_keeps_a_float32_state(tiny: Make, make_batch: Batch) -> None:
    batch = make_batch(tiny())
    _, full = one_pass(tiny(), batch)
    state, half = one_pass(tiny(model__dtype="bfloat16"), batch)
    np.testing.assert_allclose(full.metrics["loss"], half.metrics["loss"], rtol=0.1)
    for name, leaf in trees.flatten((state, half.grads, half.batch_stats)).items():
        assert leaf.dtype in (jnp.float32, jnp.int32, jnp.uint32), name
    assert float(full.metrics["loss"]) != float(half.metrics["loss"])
