"""Schedules against their formulas, and optimisers against PyTorch's over several steps."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from repository import CONFIGS
from single_runs import tiny_single

from wenlan_jax.config import sections
from wenlan_jax.core import optim, trees
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.single_tower.schema import SingleTowerConfig
from wenlan_jax.training import setup as runs

torch = pytest.importorskip("torch")

STEPS = 5
SHAPES = {"image/dense/kernel": (5, 3), "image/dense/bias": (3,), "image/norm/scale": (3,), "logit_scale": ()}
DECAYED = {"image/dense/kernel"}


def settings(**changes: Any) -> sections.OptimizerConfig:
    return dataclasses.replace(sections.OptimizerConfig(learning_rate=0.1, weight_decay=0.0), **changes)


def cosine(share: float, floor: float) -> float:
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("constant", lambda share: 1.0),
        ("cosine", lambda share: cosine(share, 0.1)),
        ("linear", lambda share: 1 - 0.9 * share),
    ],
)
@pytest.mark.parametrize("warm", [0, 10])
def test_schedules_follow_their_formulas(name: str, after: Callable[[float], float], warm: int) -> None:
    steps, peak = 50, 0.3
    config = settings(schedule=name, learning_rate=peak, warmup_steps=warm, final_fraction=0.1)
    rate = optim.schedule(config, steps)
    for step in range(steps + 5):
        share = min((step - warm) / (steps - warm), 1.0)
        expected = peak * (step / warm if step < warm else after(share))
        np.testing.assert_allclose(rate(jnp.asarray(step)), expected, rtol=1e-5, atol=1e-8, err_msg=str(step))


def random_trees(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{name: rng.normal(size=s).astype(np.float32) for name, s in SHAPES.items()} for _ in range(count)]


def nested(flat: dict[str, np.ndarray]) -> Any:
    return {
        "image": {
            "dense": {"kernel": flat["image/dense/kernel"], "bias": flat["image/dense/bias"]},
            "norm": {"scale": flat["image/norm/scale"]},
        },
        "logit_scale": flat["logit_scale"],
    }


def ours(config: sections.OptimizerConfig, start: dict[str, np.ndarray], grads: list[Any]) -> dict[str, Any]:
    optimizer = optim.create(config)
    params = jax.tree.map(jnp.asarray, nested(start))
    state = optimizer.init(params)
    for gradient in grads:
        rate = jnp.asarray(config.learning_rate)
        params, state = optim.apply(optimizer, nested(gradient), state, params, rate)
    return trees.flatten(params)


def theirs(
    make: Any, start: dict[str, np.ndarray], grads: list[Any], decay: float, clip: float, fast: tuple[str, ...] = ()
) -> dict[str, Any]:
    """PyTorch with a parameter group for each leaf; those of `fast` learn ten times as fast as the others."""
    leaves = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    groups = [
        {"params": [leaf], "weight_decay": decay if name in DECAYED else 0.0, **({"lr": 1.0} if name in fast else {})}
        for name, leaf in leaves.items()
    ]
    optimizer = make(groups)
    for gradient in grads:
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(gradient[name])
        if clip:
            torch.nn.utils.clip_grad_norm_(leaves.values(), clip)
        optimizer.step()
    return {name: leaf.detach().numpy() for name, leaf in leaves.items()}


OPTIMIZERS = {
    "adam": functools.partial(torch.optim.Adam, lr=0.1, betas=(0.8, 0.95), eps=1e-3),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.1, betas=(0.8, 0.95), eps=1e-3),
    "sgd": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.7),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("steps", [1, STEPS])
def test_optimizers_equal_those_of_torch(name: str, decay: float, clip: float, steps: int) -> None:
    start, *grads = random_trees(1 + steps)
    config = settings(name=name, b1=0.8, b2=0.95, eps=1e-3, sgd_momentum=0.7, weight_decay=decay, clip_norm=clip)
    expected = theirs(OPTIMIZERS[name], start, grads, decay, clip)
    for leaf, value in ours(config, start, grads).items():
        np.testing.assert_allclose(value, expected[leaf], rtol=2e-5, atol=2e-6, err_msg=leaf)


def test_muon_makes_the_momentum_of_matrices_orthogonal_and_leaves_the_rest_to_adam() -> None:
    """Newton and Schulz's iteration brings singular values near 1 and keeps the vectors; the step has Adam's size."""
    rng = np.random.default_rng(0)
    linear = {"a/kernel": (12, 5), "b/kernel": (2, 6, 9)}  # the second as of two layers that are looped over
    shapes = linear | {"conv/kernel": (3, 3, 4, 4), "a/bias": (5,), "e/embedding": (7, 4)}
    params, gradient = (
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(2)
    )
    unflatten = functools.partial(functools.reduce, lambda tree, item: trees_with(tree, *item))
    config = settings(name="muon", b1=0.8, b2=0.95, eps=1e-8, weight_decay=0.0)
    optimizer = optim.create(config)
    tree, slope = (unflatten(values.items(), {}) for values in (params, gradient))
    moved, _ = optim.apply(optimizer, slope, optimizer.init(tree), tree, jnp.asarray(0.1))
    steps = {name: (params[name] - np.asarray(value)) / 0.1 for name, value in trees.flatten(moved).items()}
    for name, shape in linear.items():
        pairs = (values.reshape(-1, *shape[-2:]) for values in (steps[name], gradient[name]))
        for step, along in zip(*pairs, strict=True):
            left, _, right = np.linalg.svd(along, full_matrices=False)
            within = left.T @ step @ right.T / (optim.MUON_RMS * math.sqrt(max(step.shape)))
            assert np.all((np.diag(within) > 0.6) & (np.diag(within) < 1.3))
            np.testing.assert_allclose(within - np.diag(np.diag(within)), 0.0, atol=2e-3)
    adam = optax.scale_by_adam(0.8, 0.95, 1e-8, nesterov=True)
    expected, _ = adam.update(gradient, adam.init(params))
    for name in ("conv/kernel", "a/bias", "e/embedding"):
        np.testing.assert_allclose(steps[name], expected[name], rtol=2e-3, atol=2e-4, err_msg=name)


def test_muon_takes_the_same_step_however_the_matrices_are_split() -> None:
    rng = np.random.default_rng(0)
    tree, slope = ({"a": {"kernel": rng.normal(size=(16, 24)).astype(np.float32)}} for _ in range(2))
    optimizer = optim.create(settings(name="muon"))
    step = jax.jit(lambda tree, slope: optim.apply(optimizer, slope, optimizer.init(tree), tree, jnp.asarray(0.1))[0])
    mesh = jax.make_mesh((8,), ("parts",), axis_types=(jax.sharding.AxisType.Auto,))
    alone = step(tree, slope)["a"]["kernel"]
    for spec in (jax.P("parts"), jax.P(None, "parts")):
        split = jax.device_put((tree, slope), jax.NamedSharding(mesh, spec))
        np.testing.assert_allclose(step(*split)["a"]["kernel"], alone, atol=1e-5)


def trees_with(tree: dict[str, Any], name: str, leaf: np.ndarray) -> dict[str, Any]:
    """A tree of two levels with one more leaf."""
    outer, inner = name.split("/")
    return {**tree, outer: {**tree.get(outer, {}), inner: leaf}}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_parameters_that_are_to_learn_faster_equal_a_group_of_torch(name: str, decay: float) -> None:
    """With their decay, and after a clipping that looks at all gradients alike."""
    start, *grads = random_trees(1 + STEPS)
    fast = ("image/dense/kernel", "image/dense/bias")
    config = settings(name=name, b1=0.8, b2=0.95, eps=1e-3, sgd_momentum=0.7, weight_decay=decay, clip_norm=0.5)
    config = dataclasses.replace(config, faster=("^image/dense/",), faster_times=10.0)
    expected = theirs(OPTIMIZERS[name], start, grads, decay, 0.5, fast)
    for leaf, value in ours(config, start, grads).items():
        np.testing.assert_allclose(value, expected[leaf], rtol=2e-5, atol=2e-6, err_msg=leaf)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("image/conv/", "optimizer.faster: no trained parameter matches 'image/conv/'"),
        ("(", "not a regular expression"),
    ],
)
def test_a_pattern_that_makes_nothing_faster_is_an_error(pattern: str, message: str) -> None:
    start, gradient = random_trees(2)
    with pytest.raises(optim.OptimizerError, match=message):
        ours(settings(faster=("dense", pattern)), start, [gradient])


def test_the_head_of_answers_alone_learns_ten_times_as_fast() -> None:
    """As UNITER's: of a step along ones, every other parameter of its fine-tuning takes a tenth."""
    config = experiment.load(CONFIGS / "finetune" / "vqa.py")
    tower = SingleTowerConfig(vocab_size=30, width=8, layers=1, heads=2, feed_forward=8)
    small = dataclasses.replace(config, single=tower, vqa=dataclasses.replace(config.vqa, answers=5))
    trained = runs.fresh_state(runs.set_up(small, jax.devices()[:1])).params
    plain = dataclasses.replace(small.optimizer, name="sgd", weight_decay=0.0, clip_norm=0.0)
    optimizer = optim.create(plain)
    ones = jax.tree.map(jnp.ones_like, trained)
    taken = trees.flatten(optimizer.update(ones, optimizer.init(trained), trained)[0])
    heads = {name for name, leaf in taken.items() if (leaf == 10).all()}
    assert heads == {name for name in taken if name.startswith("single/answer_head/")} != set()
    assert all((leaf == 1).all() for name, leaf in taken.items() if name not in heads)


def test_sgd_without_momentum_steps_along_the_gradient() -> None:
    start, gradient = random_trees(2)
    for name, value in ours(settings(name="sgd"), start, [gradient]).items():
        np.testing.assert_allclose(value, start[name] - 0.1 * gradient[name], rtol=1e-6)


@pytest.mark.parametrize(("name", "scaled"), [("adam", True), ("adamw", False)])
def test_weight_decay_without_gradient(name: str, scaled: bool) -> None:
    """adam scales the decay with the gradient it is part of; adamw shrinks the weight by rate x decay."""
    (start,) = random_trees(1)
    zero = {leaf: np.zeros_like(value) for leaf, value in start.items()}
    after = ours(settings(name=name, weight_decay=0.01, eps=1e-20), start, [zero])
    kernel = start["image/dense/kernel"]
    expected = kernel - 0.1 * (np.sign(kernel) if scaled else 0.01 * kernel)
    np.testing.assert_allclose(after["image/dense/kernel"], expected, rtol=1e-5, atol=2e-6)


def test_clipping_leaves_small_gradients_alone() -> None:
    start, gradient = random_trees(2)
    norm = math.sqrt(sum(float(np.sum(g**2)) for g in gradient.values()))
    for limit, factor in ((2 * norm, 1.0), (norm / 4, 0.25)):
        after = ours(settings(name="sgd", clip_norm=limit), start, [gradient])
        for name, value in after.items():
            np.testing.assert_allclose(value, start[name] - 0.1 * factor * gradient[name], rtol=1e-5, atol=1e-6)


def test_biases_norms_and_the_temperature_are_not_decayed(tiny: Callable[..., experiment.Config]) -> None:
    config = tiny(contrast__learnable_temperature=True)
    params = runs.set_up(config, jax.devices()[:1]).shapes.params
    mask = trees.flatten(optim.decayed(params))
    for name, shape in trees.flatten(params).items():
        assert mask[name] == (len(shape.shape) >= 2), name


def test_the_single_tower_decays_its_kernels_tables_and_the_mask_vector_alone() -> None:
    """Unlike UNITER's code, whose list of names misses the norms of regions and of heads."""
    params = runs.set_up(tiny_single(), jax.devices()[:1]).shapes.params
    mask = trees.flatten(optim.decayed(params))
    last = {name.rpartition("/")[2] for name, is_decayed in mask.items() if is_decayed}
    assert last == {"kernel", "embedding", "mask_vector"}
    assert {name.rpartition("/")[2] for name, is_decayed in mask.items() if not is_decayed} == {"scale", "bias"}
