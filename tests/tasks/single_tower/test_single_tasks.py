"""The single tower as a task: the same gradient however a batch is split, and references that mean what they say."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np
import pytest
from single_runs import noise, tiny_single

from wenlan_jax.core import step, trees
from wenlan_jax.models.single_tower import MATCH
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.single_tower import objectives
from wenlan_jax.tasks.single_tower.batch import of_batch
from wenlan_jax.training import setup as runs

TASKS = {"itm": "mlmm", "mlm": "mlmm", "mrfr": "mlmm", "mrc": "mlmm", "rank": "rank", "vqa": "vqa"}


def one_pass(config: experiment.Config, batch: dict[str, np.ndarray], devices: int = 1) -> tuple[Any, dict[str, float]]:
    """Gradients and metrics of a fresh state on so many devices."""
    current = runs.set_up(config, jax.devices()[:devices])
    state = runs.fresh_state(current)

    def whole(state: Any, batch: Any) -> Any:
        done = step.forward_backward(current.recipe, state, batch)
        return done.grads, done.metrics

    grads, metrics = jax.jit(whole)(state, meshes.to_devices(current.mesh, batch))
    return jax.device_get(grads), {name: float(value) for name, value in metrics.items()}


@functools.cache
def alone(objective: str) -> tuple[Any, dict[str, float]]:
    config = tiny_single(task=TASKS[objective])
    return one_pass(config, noise(config, objective))


def assert_same(found: tuple[Any, dict[str, float]], expected: tuple[Any, dict[str, float]]) -> None:
    (grads, metrics), (true_grads, true_metrics) = found, expected
    assert metrics.keys() == true_metrics.keys()
    for name, value in true_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    ours, theirs = trees.flatten(grads), trees.flatten(true_grads)
    for name, leaf in theirs.items():
        scale = max(float(np.abs(leaf).max()), 1e-4)
        np.testing.assert_allclose(ours[name], leaf, rtol=1e-3, atol=2e-5 * scale, err_msg=name)


@pytest.mark.parametrize("objective", list(TASKS))
def test_a_batch_tells_its_objective_and_gives_finite_gradients(objective: str) -> None:
    config = tiny_single(task=TASKS[objective])
    assert of_batch(noise(config, objective)) == objective
    grads, metrics = alone(objective)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert math.isfinite(metrics["loss"])
    assert metrics["loss"] == metrics[f"{objective}_loss"]
    assert float(np.abs(trees.flatten(grads)["single/layers_0/linear1/kernel"]).max()) > 0


@pytest.mark.parametrize("objective", ["mlm", "mrc", "rank"])
def test_micro_batches_give_the_gradient_of_the_whole(objective: str) -> None:
    """Rows have different numbers of masks, so means of means would be another loss."""
    config = tiny_single(task=TASKS[objective], train__accumulation=4)
    batch = noise(config, objective)
    grads, metrics = one_pass(config, batch)
    if objective == "mrc":  # the constant guess is that for a micro-batch
        metrics["loss_reference"] = alone(objective)[1]["loss_reference"]
    assert_same((grads, metrics), alone(objective))


@pytest.mark.parametrize(
    "objective",
    ["mlm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("itm", "mrfr", "mrc", "rank", "vqa"))],
)
def test_eight_devices_give_the_gradient_of_one(objective: str) -> None:
    config = tiny_single(task=TASKS[objective], mesh__data=2, mesh__fsdp=4)
    assert_same(one_pass(config, noise(config, objective), devices=8), alone(objective))


def test_references_are_those_of_guesses_without_a_look() -> None:
    config = tiny_single()
    assert alone("itm")[1]["loss_reference"] == pytest.approx(math.log(2))
    assert alone("mlm")[1]["loss_reference"] == pytest.approx(math.log(config.single.vocab_size))
    batch = noise(config, "mrfr")
    rows = batch["region_features"][batch["region_masked"]].astype(np.float64)
    assert alone("mrfr")[1]["loss_reference"] == pytest.approx(rows.var(axis=0).mean(), rel=1e-3)
    batch = noise(config, "mrc")
    rows = batch["region_classes"][batch["region_masked"]].astype(np.float64)
    mean = rows.mean(axis=0)
    divergence = np.sum(rows * (np.log(rows + 1e-12) - np.log(mean)), axis=1).mean() / config.single.regions.classes
    assert alone("mrc")[1]["loss_reference"] == pytest.approx(divergence, rel=1e-2)


def test_errors_of_features_may_be_summed_over_their_numbers() -> None:
    config = tiny_single(pretrain__mrfr_reduction="batchmean")
    grads, metrics = one_pass(config, noise(config, "mrfr"))
    averaged_grads, averaged = alone("mrfr")
    width = config.single.regions.width
    for name in ("loss", "loss_reference"):
        assert metrics[name] == pytest.approx(width * averaged[name], rel=1e-5)
    kernel = "single/layers_0/linear1/kernel"
    expected = width * trees.flatten(averaged_grads)[kernel]
    np.testing.assert_allclose(trees.flatten(grads)[kernel], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("objective", "moved"), [("mlm", "region_"), ("mrfr", "token_"), ("mrc", "token_")])
def test_a_mismatched_batch_has_the_other_side_of_the_row_before(objective: str, moved: str) -> None:
    """And not its masks, nor what is to be guessed."""
    batch = noise(tiny_single(), objective)
    found = objectives.mismatched(objective, batch)
    assert found.keys() == batch.keys()
    changed = {name for name in batch if not np.array_equal(found[name], batch[name])}
    assert changed == {
        name for name in batch if name.startswith(moved) and name not in ("region_masked", "region_classes")
    }
    for name in changed:
        np.testing.assert_array_equal(np.asarray(found[name])[1:], batch[name][:-1])


def test_mined_candidates_are_those_that_score_highest() -> None:
    """With as many kept as drawn nothing is chosen; with fewer, the hinge is that of the best scored ones."""
    config = tiny_single(task="rank", rank__hard=1)
    batch = noise(config, "rank")
    _, mined = one_pass(config, batch)
    _, every = one_pass(tiny_single(task="rank", rank__hard=3), batch)
    assert mined["rank_loss"] >= every["rank_loss"] - 1e-6, "the hardest violate the margin most"


def test_a_rank_head_starts_from_the_logit_of_a_match() -> None:
    config = tiny_single(task="rank")
    recipe = runs.set_up(config, jax.devices()[:1]).recipe
    params = jax.device_get(recipe.task.fresh(jax.random.key(0)).params)
    leaves = [f"params/{name}" for name in trees.flatten(params) if "rank_head" not in name]
    derived = recipe.task.derive(params, leaves)["single"]
    np.testing.assert_array_equal(
        derived["rank_head"]["kernel"][:, 0], params["single"]["itm_head"]["kernel"][:, MATCH]
    )
    every = [f"params/{name}" for name in trees.flatten(params)]
    kept = recipe.task.derive(params, every)["single"]["rank_head"]["kernel"]
    np.testing.assert_array_equal(kept, params["single"]["rank_head"]["kernel"])
