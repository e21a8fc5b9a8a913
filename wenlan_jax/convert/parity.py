"""How far an exported artefact is from the JAX towers, on one fixed batch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower.towers import Towers

ITEMS = 4
"""Images and texts of the fixed batch."""

QUICKLY: dict[str, str | bool] = {"xla_backend_optimization_level": "1", "xla_cpu_use_fusion_emitters": False}
"""Options of XLA. They change no result by more than rounding."""

TOLERANCES = {"float32": 1e-4, "float16": 1e-2}
"""Largest absolute difference of an embedding's coordinate by the type of the exported weights: rounding them to half
precision alone moves embeddings."""


class FixedBatch(NamedTuple):
    """Inputs that depend on the configuration alone.

    Attributes:
        image: RGB of 0 to 255, (items, height, width, 3).
        token_ids: as in training batches.
        token_mask: as in training batches.
        boxes: as in training batches; None where regions are a grid.
        box_mask: as in training batches; None where regions are a grid.
    """

    image: np.ndarray
    token_ids: Int[np.ndarray, "items tokens"]
    token_mask: Bool[np.ndarray, "items tokens"]
    boxes: Float[np.ndarray, "items boxes 4"] | None
    box_mask: Bool[np.ndarray, "items boxes"] | None


class Embeddings(NamedTuple):
    """Unit vectors of both sides, float32.

    Attributes:
        image: of the images.
        text: of the texts.
    """

    image: Float[np.ndarray, "items embedding"]
    text: Float[np.ndarray, "items embedding"]


@dataclasses.dataclass(frozen=True)
class EmbeddingDifference:
    """How far two embeddings of one side are apart.

    Attributes:
        largest_difference: absolute, over all coordinates.
        cosine: of every item's two embeddings.
    """

    largest_difference: float
    cosine: list[float]


def fixed_batch(config: experiment.Config, items: int = ITEMS) -> FixedBatch:
    """Images of smooth noise, texts of 3 tokens up to the whole length, boxes of all sizes, some of them padding."""
    random = np.random.default_rng(0)
    side, length, vocabulary = config.data.image_size, config.data.text_length, config.model.text.bert.vocab_size
    coarse = random.integers(0, 256, (items, 8, 8, 3)).astype(np.float32)
    image = np.asarray(jax.image.resize(coarse, (items, side, side, 3), "linear"))
    lengths = np.linspace(min(3, length), length, items).astype(int)
    mask = np.arange(length) < lengths[:, None]
    ids = np.where(mask, random.integers(0, vocabulary, (items, length)), 0).astype(np.int32)
    boxes = box_mask = None
    if config.model.image.regions.kind == "boxes":
        count = config.model.image.regions.boxes
        corners = np.sort(random.uniform(0, 1, (items, count, 2, 2)), axis=2)
        boxes = corners.reshape(items, count, 4).astype(np.float32)
        box_mask = np.arange(count) < np.linspace(0, count, items).astype(int)[:, None]
        boxes = np.where(box_mask[..., None], boxes, np.float32(0))
    return FixedBatch(np.clip(np.rint(image), 0, 255).astype(np.uint8), ids, mask, boxes, box_mask)


def jax_embeddings(config: experiment.Config, tower: Callable[[str], dict[str, Any]], batch: FixedBatch) -> Embeddings:
    """Embeds a batch with our towers; only one is held at a time.

    Args:
        config: the configuration.
        tower: reads the variables of a tower (see `jax_embedding`).
        batch: the batch.

    Returns:
        The embeddings.
    """
    return Embeddings(*(jax_embedding(config, side, tower(side), batch) for side in Embeddings._fields))


def jax_embedding(
    config: experiment.Config, side: str, variables: dict[str, Any], batch: FixedBatch
) -> Float[np.ndarray, "items embedding"]:
    """Embeds one side of a batch with our tower, in float32 whatever the configuration trains in.

    Args:
        config: the configuration.
        side: `image` or `text`.
        variables: the tower's `params` and, for images, `batch_stats`.
        batch: the batch.

    Returns:
        Unit vectors.
    """
    return compiled_tower(config, side, variables, batch)(variables)


def compiled_tower(
    config: experiment.Config, side: str, variables: dict[str, Any], batch: FixedBatch
) -> Callable[[dict[str, Any]], Float[np.ndarray, "items embedding"]]:
    """Compiles `jax_embedding` for a batch.

    Args:
        config: the configuration.
        side: `image` or `text`.
        variables: only shapes and types are read.
        batch: the batch.

    Returns:
        A function from variables to embeddings.
    """
    model = dataclasses.replace(config.model, dtype="float32")
    towers = Towers(dataclasses.replace(config, model=model))

    def embed_image(variables: dict[str, Any], inputs: dict[str, jax.Array]) -> jax.Array:
        params, stats = ({"image": variables.get(name, {})} for name in ("params", "batch_stats"))
        return towers.embed_images(params, stats, towers.prepare(inputs, None), None)[0].embedding

    def embed_text(variables: dict[str, Any], inputs: dict[str, jax.Array]) -> jax.Array:
        return towers.embed_texts({"text": variables["params"]}, inputs, None).embedding

    embed = {"image": embed_image, "text": embed_text}[side]
    inputs = {name: jnp.asarray(value) for name, value in batch._asdict().items() if value is not None}
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    with jax.default_matmul_precision("highest"):
        program = _quickly(jax.jit(embed).lower(shapes, inputs))
    return lambda variables: np.asarray(program(variables, inputs))


def _quickly(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a program that is run once: for towers of real size half the time on a CPU, and a third more to run."""
    known = {name: value for name, value in QUICKLY.items() if _is_known(name, value)}
    return lowered.compile(compiler_options=known)


@functools.cache
def _is_known(option: str, value: str | bool) -> bool:
    """Whether this version of XLA has an option: it renames and drops them."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={option: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compare(ours: Embeddings, theirs: Embeddings) -> tuple[EmbeddingDifference, EmbeddingDifference, float]:
    """Compares embeddings.

    Args:
        ours: of the JAX towers.
        theirs: of the artefact.

    Returns:
        Agreement of images and of texts, and of the ranking of all images for every text (1: the same order).

    Raises:
        ValueError: where shapes differ.
    """
    sides = []
    for name, mine, other in zip(Embeddings._fields, ours, theirs, strict=True):
        if mine.shape != np.shape(other):
            raise ValueError(f"the artefact gives {name} embeddings of shape {np.shape(other)}, not {mine.shape}")
        other = np.asarray(other, np.float64)
        norms = np.linalg.norm(mine, axis=1) * np.linalg.norm(other, axis=1)
        cosine = np.sum(mine * other, axis=1) / norms
        difference = np.abs(mine - other).max()
        sides.append(EmbeddingDifference(float(difference), [float(value) for value in cosine]))
    return sides[0], sides[1], ranking_agreement(ours.text @ ours.image.T, theirs.text @ theirs.image.T)


def ranking_agreement(ours: Float[np.ndarray, "texts images"], theirs: Float[np.ndarray, "texts images"]) -> float:
    """Computes the share of pairs of images that both put in the same order for a text.

    Pairs whose scores are equal up to the rounding of float32 in either are left out.

    Args:
        ours: scores.
        theirs: scores.

    Returns:
        The share; 1 where no pair remains.
    """
    first = ours[:, :, None] - ours[:, None, :]
    second = theirs[:, :, None] - theirs[:, None, :]
    resolution = 8 * np.finfo(np.float32).eps
    decided = (np.abs(first) > resolution) & (np.abs(second) > resolution)
    decided &= np.triu(np.ones(decided.shape[1:], bool), 1)
    return float((np.sign(first) == np.sign(second))[decided].mean()) if decided.any() else 1.0
