"""EfficientNet against the PyTorch model, and the published sizes of the family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked

pytest.importorskip("torch")

import torch

from wenlan_jax.convert.brivl import brivl_table
from wenlan_jax.convert.reference import torch_brivl
from wenlan_jax.convert.rules import to_flax, to_torch, unflatten
from wenlan_jax.models.efficientnet import COMPOUND_COEFFICIENTS, EfficientNet, Stage, efficientnet_sizes


def reference(net: EfficientNet, side: int) -> torch_brivl.EfficientNet:
    """The PyTorch backbone of the same sizes, with norms and statistics away from their neutral start."""
    torch.manual_seed(0)
    sizes = type("Sizes", (), {"stem_width": net.stem_width, "stages": net.stages, "head_width": net.head_width})
    with unchecked():
        theirs = torch_brivl.EfficientNet(sizes)
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            if name.endswith("running_var") or (".bn" in f".{name}" and name.endswith("weight")):
                value.uniform_(0.7, 1.3)
            elif name.endswith(("running_mean", "bias")):
                value.uniform_(-0.3, 0.3)
    return theirs


def converted(net: EfficientNet, theirs: torch_brivl.EfficientNet, side: int) -> dict[str, Any]:
    table = brivl_table({"imgencoder": "image"})
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, side, side, 3)), False))
    template = {"image": {collection: {"backbone": tree} for collection, tree in shapes.items()}}
    state = {f"imgencoder.backbone.{name}": value.numpy().copy() for name, value in theirs.state_dict().items()}
    tree = unflatten(to_flax(state, table, template).leaves)["image"]
    return {collection: values["backbone"] for collection, values in tree.items()}


def images(batch: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, side, side, 3)).astype(np.float32)


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


LONGER = (Stage(3, 1, 1, 8, 3), Stage(5, 2, 6, 16, 4))
"""Stages with several equal blocks, of both kinds."""


@pytest.mark.parametrize(
    "changes",
    [
        {"depthwise": "conv"},
        {"depthwise": "shift", "remat": True},
        {"stages": LONGER, "scan": True},
        {"stages": LONGER, "scan": True, "remat": True},
    ],
)
def test_training_equals_torch_with_gradients_and_statistics(make_backbone: Callable, changes: dict[str, Any]):
    net, side = make_backbone(**changes), 33 if "remat" in changes else 30
    theirs = reference(net, side)
    variables, x = converted(net, theirs, side), images(4, side)
    expected = theirs.train()(channels_first(x))
    weight = np.random.default_rng(1).normal(size=expected.permute(0, 2, 3, 1).shape).astype(np.float32)
    (expected * channels_first(weight)).sum().backward()

    def loss(params):
        y, updated = net.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
        return jnp.sum(y * weight), (y, updated)

    gradients, (y, updated) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    np.testing.assert_allclose(y, expected.detach().permute(0, 2, 3, 1), atol=1e-4)
    scope = {"image": {"params": {"backbone": gradients}, "batch_stats": {"backbone": updated["batch_stats"]}}}
    ours = to_torch(scope, brivl_table({"imgencoder": "image"}))
    state = theirs.state_dict()
    for name, parameter in theirs.named_parameters():
        if not name.startswith("classifier"):
            scale = max(1.0, float(parameter.grad.abs().max()))
            np.testing.assert_allclose(ours[f"imgencoder.backbone.{name}"], parameter.grad, atol=1e-4 * scale)
    for name in [n for n in state if "running" in n]:
        np.testing.assert_allclose(ours[f"imgencoder.backbone.{name}"], state[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_b0_equals_torch_in_evaluation(make_backbone: Callable):
    net = make_backbone(**efficientnet_sizes(*COMPOUND_COEFFICIENTS["b0"])._asdict())
    theirs = reference(net, 40).eval()
    x = images(2, 40)
    with torch.no_grad():
        expected = theirs(channels_first(x)).permute(0, 2, 3, 1).numpy()
    y = jax.jit(lambda v, x: net.apply(v, x, False))(converted(net, theirs, 40), x)
    assert y.shape == (2, 2, 2, 1280)
    np.testing.assert_allclose(y, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "stem", "widths", "repeats", "head"),
    [
        ("b0", 32, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 1280),
        ("b5", 48, (24, 40, 64, 128, 176, 304, 512), (3, 5, 5, 7, 7, 9, 3), 2048),
        ("b7", 64, (32, 48, 80, 160, 224, 384, 640), (4, 7, 7, 10, 10, 13, 4), 2560),
    ],
)
def test_scaled_sizes_are_the_published_ones(name: str, stem: int, widths: tuple, repeats: tuple, head: int):
    sizes = efficientnet_sizes(*COMPOUND_COEFFICIENTS[name])
    assert (sizes.stem_width, sizes.head_width) == (stem, head)
    assert tuple(stage.width for stage in sizes.stages) == widths
    assert tuple(stage.repeats for stage in sizes.stages) == repeats


def test_frozen_paths_choose_layers_by_name(make_backbone: Callable, randomize: Callable):
    default = make_backbone().batch_norm
    frozen = type(default)(**{**vars(default), "frozen_paths": (r"^blocks_0_", r"^bn2/")})
    net, x = make_backbone(batch_norm=frozen), images(2, 16)
    variables = randomize(jax.eval_shape(lambda: net.init(jax.random.key(0), x, False)), 0)
    _, updated = jax.jit(lambda v: net.apply(v, x, True, mutable=["batch_stats"]))(variables)
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), variables["batch_stats"], updated["batch_stats"])
    for name, layer in same.items():
        expected = name.startswith("blocks_0_") or name == "bn2"
        assert set(jax.tree.leaves(layer)) == {expected}, name


def test_bfloat16_keeps_float32_parameters_and_statistics(make_backbone: Callable):
    net, x = make_backbone(dtype=jnp.bfloat16), images(2, 16)
    shapes = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), x, True, mutable=True))
    assert shapes[0].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes[1])} == {jnp.dtype("float32")}
