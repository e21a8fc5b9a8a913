"""Factories of small towers and of the PyTorch model they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wenlan_jax.convert.brivl import QUERY_TOWERS, brivl_table
from wenlan_jax.convert.rules import to_flax, unflatten
from wenlan_jax.models.bert import BertEncoder
from wenlan_jax.models.efficientnet import BASE_STAGES, EfficientNet, Stage, efficientnet_sizes
from wenlan_jax.models.layers import BatchNormOptions
from wenlan_jax.models.regions import RegionPooling
from wenlan_jax.models.transformer import TransformerEncoder
from wenlan_jax.models.two_tower import ImageTower, Projection, TextTower

BATCH_NORM = BatchNormOptions(mode="batch", group_size=0, momentum=0.1, eps=1e-3, frozen_paths=(), scope="")
SMALL_STAGES = (Stage(3, 1, 1, 8, 1), Stage(5, 2, 4, 16, 2))


@pytest.fixture
def make_backbone() -> Callable[..., EfficientNet]:
    """A small EfficientNet of total stride 4, unless told otherwise."""

    def make(**changes: Any) -> EfficientNet:
        options = {
            "stem_width": 8,
            "stages": SMALL_STAGES,
            "head_width": 32,
            "batch_norm": BATCH_NORM,
            "lite": False,
            "depthwise": "conv",
            "dtype": jnp.float32,
            "remat": False,
            "scan": False,
        }
        return EfficientNet(**{**options, **changes})

    return make


@pytest.fixture
def make_encoder() -> Callable[..., TransformerEncoder]:
    """A two-layer token encoder without dropout, unless told otherwise."""

    def make(**changes: Any) -> TransformerEncoder:
        options = {"depth": 2, "heads": 4, "mlp_width": 24, "dropout": 0.0, "dtype": jnp.float32}
        return TransformerEncoder(**{**options, "scan_segments": (), "remat": False, **changes})

    return make


@pytest.fixture
def make_bert() -> Callable[..., BertEncoder]:
    """A three-layer BERT without dropout, unless told otherwise."""

    def make(**changes: Any) -> BertEncoder:
        options = {
            "vocab_size": 50,
            "width": 16,
            "depth": 3,
            "heads": 2,
            "mlp_width": 40,
            "max_positions": 24,
            "type_vocab_size": 2,
            "position_offset": 0,
            "eps": 1e-12,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "dtype": jnp.float32,
            "scan_segments": (),
            "remat": False,
        }
        return BertEncoder(**{**options, **changes})

    return make


@pytest.fixture
def make_image_tower(make_backbone: Callable, make_encoder: Callable) -> Callable[..., ImageTower]:
    """An image tower around a backbone; `regions` are changes to a 3x3 grid with the whole image."""

    def make(backbone: EfficientNet | None = None, encoder: dict | None = None, **regions: Any) -> ImageTower:
        backbone = backbone or make_backbone()
        options = {
            "grid": (3,),
            "whole_image": True,
            "coordinates": "official",
            "samples": 4,
            "project": True,
        }
        pooling = RegionPooling(**{**options, "dtype": jnp.float32, **regions})
        projection = Projection(backbone.head_width, jnp.float32)
        return ImageTower(backbone, pooling, make_encoder(**(encoder or {})), projection)

    return make


@pytest.fixture
def make_text_tower(make_bert: Callable, make_encoder: Callable) -> Callable[..., TextTower]:
    """A text tower around a BERT, with an embedding of 32 unless told otherwise."""

    def make(
        backbone: BertEncoder | None = None,
        encoder: dict | None = None,
        width: int = 32,
        mask_backbone: bool = True,
    ) -> TextTower:
        projection = Projection(width, jnp.float32)
        return TextTower(backbone or make_bert(), make_encoder(**(encoder or {})), projection, mask_backbone)

    return make


@pytest.fixture
def load_towers() -> Callable[..., dict[str, Any]]:
    """Converts an official state dict to the variables of an image and a text tower, by tower."""

    def load(state: dict[str, np.ndarray], image: ImageTower, text: TextTower, side: int) -> dict[str, Any]:
        template = {"image": image_shapes(image, side), "text": text_shapes(text)}
        return unflatten(to_flax(state, brivl_table(QUERY_TOWERS), template).leaves)

    return load


def image_shapes(tower: ImageTower, side: int) -> dict[str, Any]:
    images = jnp.zeros((1, side, side, 3))
    boxes = None if tower.regions.grid else jnp.zeros((1, 1, 4))
    mask = None if boxes is None else jnp.ones((1, 1), bool)
    return jax.eval_shape(lambda: tower.init(jax.random.key(0), images, boxes, mask, train=False))


def text_shapes(tower: TextTower) -> dict[str, Any]:
    ids = jnp.zeros((1, 4), jnp.int32)
    return jax.eval_shape(lambda: tower.init(jax.random.key(0), ids, ids == 0, train=False))


@pytest.fixture
def fixture_sizes() -> Any:
    """Sizes of the tiny official model: B0 scaled to a tenth of its width and half its depth."""
    return efficientnet_sizes(0.1, 0.5, BASE_STAGES)


def randomized(variables: Any, seed: int) -> Any:
    """The same tree with nothing at its neutral start: scales near 1, variances positive."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: Any) -> np.ndarray:
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        name = path[-1].key
        if name == "var":
            return np.exp(0.3 * noise)
        spread = max(1, leaf.shape[0]) if leaf.ndim > 1 else 10
        return 1.0 + 0.2 * noise if name == "scale" else noise * np.float32(spread**-0.5)

    return jax.tree_util.tree_map_with_path(draw, variables)


@pytest.fixture
def randomize() -> Callable[[Any, int], Any]:
    return randomized
