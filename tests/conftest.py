"""Eight simulated devices for the whole test session, and a model that compiles in seconds."""

from __future__ import annotations

import importlib.metadata
import os

# Compilation dominates these tests: compile without optimisation (measured: a third of the time for the tiny step).
FAST_COMPILE = "--xla_backend_optimization_level=0"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    FAST_COMPILE += " --xla_cpu_use_fusion_emitters=false"  # later ones do not know it, and XLA ends the process
DEVICES = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILE} {DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import signal
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook
from ml_collections import config_dict

install_import_hook("wenlan_jax", "annotations.checked")  # what is annotated is checked, shapes and dtypes too

from wenlan_jax.tasks import experiment

jax.config.update("jax_numpy_rank_promotion", "raise")  # a vector that meets a matrix by mistake is an error

# A shell starts jobs in the background with SIGINT ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def tiny_dict(**changes: Any) -> config_dict.ConfigDict:
    """The smallest configuration with every part of BriVL in it; `changes` are dotted paths with `__` for dots."""
    c = experiment.default()
    c.mesh.data, c.mesh.smallest_split = 1, 0
    c.data.source, c.data.image_size, c.data.text_length = "wenlan_scenes/tiny", 16, 12
    c.tokenizer.train_size = 600
    c.model.dtype, c.model.embedding = "float32", 16
    c.model.freeze, c.model.random_frozen = (r"image/backbone/(conv_stem|bn1)/",), True
    image, bert = c.model.image, c.model.text.bert
    image.backbone.stages = ((3, 2, 1, 8, 1), (3, 2, 2, 8, 1))
    image.backbone.width_multiplier, image.backbone.depth_multiplier = 0.0125 * 4, 1.0
    image.batch_norm.group_size = 4
    image.regions.grid = (2,)
    bert.vocab_size, bert.width, bert.layers, bert.heads, bert.feed_forward, bert.positions = (
        600,
        16,
        1,
        2,
        16,
        16,
    )
    for encoder in (image.encoder, c.model.text.encoder):
        encoder.layers, encoder.heads, encoder.feed_forward, encoder.dropout = 1, 2, 16, 0.0
    bert.dropout = 0.0
    c.contrast.bank_size = 20
    c.optimizer.learning_rate, c.optimizer.weight_decay = 1e-2, 0.0
    c.train.steps, c.train.batch_size, c.train.log_every = 6, 8, 1
    c.eval.final_splits, c.eval.batch_size, c.eval.gallery, c.eval.one_text_per_image = ("test",), 8, 2, True
    c.checkpoint.every = 100
    for name, value in changes.items():
        *sections, field = name.split("__")
        section = c
        for part in sections:
            section = section[part]
        section[field] = value
    return c


@pytest.fixture(scope="session")
def tiny_of() -> Callable[..., experiment.Config]:
    """The typed tiny configuration, with changes; for fixtures of a wider scope than a test."""

    def make(**changes: Any) -> experiment.Config:
        return experiment.parse(tiny_dict(**changes))

    return make


@pytest.fixture
def tiny(tiny_of: Callable[..., experiment.Config]) -> Callable[..., experiment.Config]:
    """See `tiny_of`."""
    return tiny_of


@pytest.fixture
def make_batch() -> Callable[..., dict[str, np.ndarray]]:
    """A batch of noise for a configuration."""

    def make(config: experiment.Config, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        size, side, length = config.train.batch_size, config.data.image_size, config.data.text_length
        real = rng.integers(3, length + 1, size)
        return {
            "image": rng.integers(0, 256, (size, side, side, 3)).astype(np.uint8),
            "token_ids": rng.integers(5, config.model.text.bert.vocab_size, (size, length)).astype(np.int32),
            "token_mask": np.arange(length)[None, :] < real[:, None],
            "id": rng.permutation(1000)[:size].astype(np.int32),
        }

    return make
