"""Batch normalisation against PyTorch, its groups and modes; L2 normalisation and masked mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from wenlan_jax.models.layers import BatchNorm, BatchNormOptions, l2_normalize, masked_mean

CHANNELS = 5


def options(mode: str, group_size: int = 0, frozen_paths: tuple[str, ...] = ()) -> BatchNormOptions:
    return BatchNormOptions(
        mode=mode, group_size=group_size, momentum=0.1, eps=1e-3, frozen_paths=frozen_paths, scope=""
    )


def variables(seed: int = 1) -> dict:
    rng = np.random.default_rng(seed)
    draw = lambda: rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32)  # noqa: E731
    return {"params": {"scale": draw(), "bias": draw()}, "batch_stats": {"mean": draw(), "var": draw()}}


def torch_batch_norm(values: dict) -> torch.nn.BatchNorm2d:
    layer = torch.nn.BatchNorm2d(CHANNELS, eps=1e-3, momentum=0.1)
    names = {"weight": ("params", "scale"), "bias": ("params", "bias")}
    names |= {"running_mean": ("batch_stats", "mean"), "running_var": ("batch_stats", "var")}
    state = {name: torch.tensor(values[collection][leaf]) for name, (collection, leaf) in names.items()}
    layer.load_state_dict(state, strict=False)
    return layer


def images(batch: int = 6) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(batch, 4, 3, CHANNELS)) * 2 + 1).astype(np.float32)


def apply(opts: BatchNormOptions, values: dict, x: np.ndarray, train: bool = True) -> tuple[jax.Array, dict]:
    layer = BatchNorm(opts, jnp.float32)
    y, updated = layer.apply(values, x, train, mutable=["batch_stats"])
    return y, updated["batch_stats"]


def test_whole_batch_equals_torch_with_gradients_and_running_statistics():
    values, x = variables(), images()
    weight = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    theirs = torch_batch_norm(values)
    inputs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    (theirs(inputs) * torch.tensor(weight.transpose(0, 3, 1, 2))).sum().backward()

    def loss(params, x):
        y, stats = apply(options("batch"), {**values, "params": params}, x)
        return jnp.sum(y * weight), stats

    (gradients, dx), stats = jax.grad(loss, argnums=(0, 1), has_aux=True)(values["params"], x)
    np.testing.assert_allclose(dx, inputs.grad.permute(0, 2, 3, 1), atol=2e-6)
    np.testing.assert_allclose(gradients["scale"], theirs.weight.grad, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradients["bias"], theirs.bias.grad, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stats["mean"], theirs.running_mean, rtol=1e-6)
    np.testing.assert_allclose(stats["var"], theirs.running_var, rtol=1e-6)


def test_each_group_equals_torch_on_that_group_alone():
    values, x = variables(), images(6)
    y, stats = apply(options("group", 2), values, x)
    layers = [torch_batch_norm(values) for _ in range(3)]
    parts = [layer(torch.tensor(g.transpose(0, 3, 1, 2))) for layer, g in zip(layers, np.split(x, 3), strict=True)]
    np.testing.assert_allclose(y, torch.cat(parts).permute(0, 2, 3, 1).detach(), atol=1e-6)
    np.testing.assert_allclose(stats["mean"], np.mean([layer.running_mean for layer in layers], 0), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], np.mean([layer.running_var for layer in layers], 0), rtol=1e-6)


def test_running_statistics_average_over_micro_batches():
    values, x = variables(), images(8)
    _, whole = apply(options("group", 2), values, x)
    halves = [apply(options("group", 2), values, part)[1] for part in np.split(x, 2)]
    for name in ("mean", "var"):
        np.testing.assert_allclose(whole[name], (halves[0][name] + halves[1][name]) / 2, rtol=1e-6)


def test_groups_see_only_their_own_examples():
    values, x = variables(), images(4)
    changed = x.copy()
    changed[2:] *= 7
    first, second = apply(options("group", 2), values, x)[0], apply(options("group", 2), values, changed)[0]
    np.testing.assert_array_equal(first[:2], second[:2])
    assert not np.allclose(apply(options("batch"), values, x)[0][:2], apply(options("batch"), values, changed)[0][:2])


@pytest.mark.parametrize(
    ("opts", "train"),
    [
        (options("frozen"), True),
        (options("batch", frozen_paths=("^scale$",)), True),
        (options("batch"), False),
    ],
    ids=["mode", "path", "evaluation"],
)
def test_frozen_layers_use_and_keep_running_statistics(opts: BatchNormOptions, train: bool):
    values, x = variables(), images()
    y, stats = apply(opts, values, x, train)
    expected = torch_batch_norm(values).eval()(torch.tensor(x.transpose(0, 3, 1, 2))).permute(0, 2, 3, 1)
    np.testing.assert_allclose(y, expected.detach(), atol=1e-6)
    for name in ("mean", "var"):
        np.testing.assert_array_equal(stats[name], values["batch_stats"][name])


def test_statistics_survive_a_large_mean():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(8, 6, 6, CHANNELS)) + 3e4).astype(np.float32)
    values = {"params": {"scale": np.ones(CHANNELS), "bias": np.zeros(CHANNELS)}}
    values["batch_stats"] = {"mean": np.zeros(CHANNELS, np.float32), "var": np.zeros(CHANNELS, np.float32)}
    _, stats = apply(options("batch"), values, x)
    exact = x.astype(np.float64).var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(np.asarray(stats["var"]) * 10, exact, rtol=1e-5)
    naive = np.mean(x**2, (0, 1, 2), dtype=np.float32) - np.mean(x, (0, 1, 2), dtype=np.float32) ** 2
    assert np.max(np.abs(naive - exact)) > 1.0, "the case no longer tells a safe formula from an unsafe one"


def test_bfloat16_inputs_have_float32_statistics():
    values, x = variables(), jnp.asarray(images(), jnp.bfloat16)
    layer = BatchNorm(options("batch"), jnp.bfloat16)
    y, updated = layer.apply(values, x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    _, expected = apply(options("batch"), values, np.asarray(x, np.float32))
    np.testing.assert_allclose(updated["batch_stats"]["var"], expected["var"], rtol=1e-6)


def test_a_batch_that_does_not_divide_into_groups_is_refused():
    with pytest.raises(ValueError, match="batch of 6 does not divide into groups of 4"):
        apply(options("group", 4), variables(), images(6))


def test_a_single_value_per_channel_is_refused():
    with pytest.raises(ValueError, match="one value per channel"):
        apply(options("group", 1), variables(), np.ones((3, 1, 1, CHANNELS), np.float32))


def test_l2_normalize_is_unit_and_finite_at_zero():
    x = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    np.testing.assert_allclose(l2_normalize(x), x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(l2_normalize(x)))(jnp.zeros(7))
    assert np.all(np.isfinite(gradient))


def test_masked_mean_ignores_masked_tokens_and_empty_rows_give_zero():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    mask = np.array([[True, False, True], [False, False, False]])
    expected = np.stack([x[0, [0, 2]].mean(0), np.zeros(4)])
    np.testing.assert_allclose(masked_mean(x, mask), expected, rtol=1e-6)
