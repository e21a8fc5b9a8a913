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
import pytest

from wenlan_jax import optim, schema, trees
from wenlan_jax import run as runs

torch = pytest.importorskip("torch")

STEPS = 5
SHAPES = {"image/dense/kernel": (5, 3), "image/dense/bias": (3,), "image/norm/scale": (3,), "logit_scale": ()}
DECAYED = {"image/dense/kernel"}


def settings(**changes: Any) -> schema.Optimizer:
    return dataclasses.replace(schema.Optimizer(learning_rate=0.1, weight_decay=0.0), **changes)


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


def ours(config: schema.Optimizer, start: dict[str, np.ndarray], grads: list[Any]) -> dict[str, Any]:
    optimizer = optim.create(config)
    params = jax.tree.map(jnp.asarray, nested(start))
    state = optimizer.init(params)
    for gradient in grads:
        rate = jnp.asarray(config.learning_rate)
        params, state = optim.apply(optimizer, nested(gradient), state, params, rate)
    return trees.flatten(params)


def theirs(make: Any, start: dict[str, np.ndarray], grads: list[Any], decay: float, clip: float) -> dict[str, Any]:
    """PyTorch with the usual two parameter groups."""
    leaves = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    groups = [
        {"params": [p for n, p in leaves.items() if n in DECAYED], "weight_decay": decay},
        {"params": [p for n, p in leaves.items() if n not in DECAYED], "weight_decay": 0.0},
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


def test_biases_norms_and_the_temperature_are_not_decayed(tiny: Callable[..., schema.Config]) -> None:
    config = tiny(contrast__learnable_temperature=True)
    params = runs.set_up(config, jax.devices()[:1]).shapes.params
    mask = trees.flatten(optim.decayed(params))
    for name, shape in trees.flatten(params).items():
        assert mask[name] == (len(shape.shape) >= 2), name
