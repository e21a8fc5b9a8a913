"""Tiny configurations and batches of the single tower's tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
from conftest import tiny_dict

from wenlan_jax.synthetic.world import SHAPES
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.single_tower.batch import objective_spec

CHANGES: dict[str, Any] = {
    "task": "mlmm",
    "model__freeze": (),
    "single__vocab_size": 60,
    "single__width": 16,
    "single__layers": 1,
    "single__heads": 2,
    "single__feed_forward": 16,
    "single__positions": 16,
    "single__position_offset": 2,
    "single__dropout": 0.0,
    "single__regions__features": "pixels",
    "single__regions__crop": 2,
    "single__regions__width": 12,
    "single__regions__limit": 4,
    "single__regions__labels": tuple(SHAPES),
    "single__regions__classes": len(SHAPES) + 1,
    "pretrain__text_buckets": (12,),
    "pretrain__region_buckets": (4,),
    "pretrain__masked_words": 4,
    "vqa__answers": 7,
    "vqa__smallest_count": 1,
    "rank__candidates": 3,
    "rank__hard": 2,
}


def tiny_single(**changes: Any) -> experiment.Config:
    """The smallest configuration of the single tower, with changes."""
    return experiment.parse(tiny_dict(**{**CHANGES, **changes}))


def noise(config: experiment.Config, objective: str, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of an objective: random values, lengths and masks in the shapes that the loader gives."""
    rng, size = np.random.default_rng(seed), config.train.batch_size
    tokens, regions = config.pretrain.text_buckets[0], config.pretrain.region_buckets[0]
    spec = objective_spec(config, objective, size, tokens, regions)
    lengths = {"token": (2, tokens), "region": (1, regions)}
    return {name: _noise(name, field.shape, field.dtype, config, lengths, rng) for name, field in sorted(spec.items())}


def _noise(
    name: str, shape: tuple[int, ...], dtype: Any, config: experiment.Config, lengths: dict[str, Any], rng: Any
) -> np.ndarray:
    if name.endswith(("token_mask", "region_mask")):
        least, most = lengths["token" if "token" in name else "region"]
        return np.arange(shape[-1]) < rng.integers(least, most + 1, shape[:-1])[..., None]
    if np.issubdtype(dtype, np.bool_):
        return rng.random(shape) < 0.5
    if name == "match":
        return rng.integers(0, 2, shape).astype(dtype)
    if name == "masked_places":
        return rng.integers(0, config.pretrain.text_buckets[0], shape).astype(dtype)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(5, config.single.vocab_size, shape).astype(dtype)
    if name == "region_classes":
        drawn = rng.random(shape) ** 4
        return (drawn / drawn.sum(-1, keepdims=True)).astype(dtype)
    return rng.random(shape).astype(dtype)
