"""Tiny single towers, the PyTorch models they are compared with, and inputs for both; nothing has a neutral value."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from wenlan_jax.convert.reference.torch_single import Inputs, Uniter, UniterSizes
from wenlan_jax.convert.rules import unflatten
from wenlan_jax.convert.single_tower import TiedTable, uc2_table, uniter_table
from wenlan_jax.models.single_tower import SingleTower

UNITER = UniterSizes(
    prefix="uniter",
    vocab_size=50,
    width=16,
    layers=3,
    heads=2,
    feed_forward=40,
    positions=24,
    padding=0,
    features=12,
    classes=9,
    answers=7,
    text_eps=1e-12,
    eps=1e-12,
    dropout=0.0,
)
UC2 = dataclasses.replace(UNITER, prefix="roberta", padding=1, text_eps=1e-5)
LAYOUTS = {"uniter": UNITER, "uc2": UC2}

TOKENS, REGIONS = 7, 5
TOKEN_MASK = np.arange(TOKENS) < np.array([[7], [4], [2], [5]])
REGION_MASK = np.arange(REGIONS) < np.array([[3], [5], [1], [4]])
MASKED = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 1, 1, 0]], bool)


def table(sizes: UniterSizes) -> TiedTable:
    """The rules of a layout."""
    return uc2_table() if sizes.uc2 else uniter_table(f"{sizes.prefix}.")


def torch_model(sizes: UniterSizes, seed: int = 0) -> Uniter:
    """The PyTorch model in evaluation mode with random weights."""
    model, rng = Uniter(sizes).eval(), np.random.default_rng(seed)
    norms = {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, torch.nn.LayerNorm)}
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = 0.2 * torch.tensor(rng.normal(size=value.shape).astype(np.float32))
            value.copy_(1.0 + noise if name in norms else noise)
            if "mask_embedding" in name:
                value[0] = 0.0
    return model


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Its state dict as NumPy arrays."""
    return {key: value.numpy().copy() for key, value in model.state_dict().items()}


def tower(sizes: UniterSizes, **changes: Any) -> SingleTower:
    """The JAX tower of the same sizes, with every head."""
    options: dict[str, Any] = {
        "vocab_size": sizes.vocab_size,
        "width": sizes.width,
        "depth": sizes.layers,
        "heads": sizes.heads,
        "mlp_width": sizes.feed_forward,
        "max_positions": sizes.positions,
        "position_offset": sizes.padding + 1 if sizes.uc2 else 0,
        "feature_width": sizes.features,
        "classes": sizes.classes,
        "answers": sizes.answers,
        "rank": True,
        "text_eps": sizes.text_eps,
        "eps": sizes.eps,
        "dropout": sizes.dropout,
        "dtype": jnp.float32,
        "scan_segments": (),
        "remat": False,
    }
    return SingleTower(**{**options, **changes})


def shapes(net: SingleTower) -> dict[str, Any]:
    """The abstract parameters of a tower."""
    ids, boxes = jnp.zeros((1, 3), jnp.int32), jnp.zeros((1, 2, 4))
    inputs = (ids, ids == 0, jnp.zeros((1, 2, net.feature_width)), boxes, jnp.ones((1, 2), bool))
    return jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs, train=False, method="everything"))["params"]


def template(net: SingleTower) -> dict[str, Any]:
    """The abstract parameters where the rule tables expect them."""
    return {"single": {"params": shapes(net)}}


def params_of(model: Uniter, net: SingleTower) -> dict[str, Any]:
    """The weights of a PyTorch model as parameters of a tower."""
    leaves = table(model.sizes).of_torch(arrays(model), template(net)).leaves
    return unflatten(leaves)["single"]["params"]


def inputs(sizes: UniterSizes, seed: int = 1) -> tuple[np.ndarray, ...]:
    """What `SingleTower.encode` takes for four pairs: ragged texts and regions, noise in the padding of features."""
    rng = np.random.default_rng(seed)
    ids = np.where(TOKEN_MASK, rng.integers(5, sizes.vocab_size, TOKEN_MASK.shape), sizes.padding)
    features = rng.normal(size=(*REGION_MASK.shape, sizes.features)).astype(np.float32)
    corners = rng.random((*REGION_MASK.shape, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(-2), corners.max(-2)], axis=-1)
    return ids, TOKEN_MASK, features, boxes, REGION_MASK, MASKED


def torch_inputs(batch: tuple[np.ndarray, ...]) -> Inputs:
    """The same for the PyTorch model."""
    return Inputs(*(torch.tensor(x) for x in batch))


class Sides(NamedTuple):
    """A PyTorch model, the tower with its weights, and inputs for both."""

    model: Uniter
    net: SingleTower
    params: dict[str, Any]
    batch: tuple[np.ndarray, ...]


@functools.cache
def make_sides(layout: str) -> Sides:
    sizes = LAYOUTS[layout]
    model, net = torch_model(sizes), tower(sizes)
    return Sides(model, net, params_of(model, net), inputs(sizes))


@functools.cache
def encoder(net: SingleTower) -> Callable:
    return jax.jit(lambda params, *batch: net.apply({"params": params}, *batch, train=False, method="encode"))


@functools.cache
def reader(net: SingleTower) -> Callable:
    """All heads on all tokens and regions."""
    return jax.jit(lambda params, *batch: net.apply({"params": params}, *batch, train=False, method="everything"))


REAL = {"word_logits": TOKEN_MASK, "features_at": REGION_MASK, "class_logits": REGION_MASK}
"""Where a head reads something real; the other heads read the pooled state."""
