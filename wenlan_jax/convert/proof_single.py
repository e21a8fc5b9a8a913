"""What an export of the single tower is proven by: every head's answers on a fixed batch, and the ranking of pairs."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from wenlan_jax.convert import parity
from wenlan_jax.convert.proof import ProofFindings, ReadTower
from wenlan_jax.models.single_tower import MATCH, Hidden, at_places
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.single_tower.spec import TOWER
from wenlan_jax.tasks.single_tower.tower import Tower

PLACES = 2
"""Words of each text that the head for words is asked for: its logits for all would take gigabytes."""

FIRST_ID = 5
"""Ids below are special in every vocabulary; XLM-R's padding has no position of its own."""

Said = dict[str, np.ndarray]
"""Answers by the name of the head, and `pooled`, in the order of the batch; `pairs` are the scores (text, image)."""


class PairBatch(NamedTuple):
    """Pairs as `SingleTower.encode` takes them, with some regions masked.

    Attributes:
        token_ids: word pieces.
        token_mask: which are real.
        features: of the regions.
        boxes: of the regions, in units of the image's sides.
        region_mask: which regions are real.
        region_masked: which are masked.
        places: real words of each text, for the word head.
    """

    token_ids: Int[np.ndarray, "items tokens"]
    token_mask: Bool[np.ndarray, "items tokens"]
    features: Float[np.ndarray, "items regions width"]
    boxes: Float[np.ndarray, "items regions 4"]
    region_mask: Bool[np.ndarray, "items regions"]
    region_masked: Bool[np.ndarray, "items regions"]
    places: Int[np.ndarray, "items places"]

    def crossed(self) -> PairBatch:
        """Pairs every text with every image, nothing masked; a text's pairs follow each other."""
        count = len(self.token_ids)
        text, image = (places.reshape(-1) for places in np.indices((count, count)))
        sides = (self.token_ids[text], self.token_mask[text], self.features[image], self.boxes[image])
        masked = np.zeros_like(self.region_masked)[image]
        return PairBatch(*sides, self.region_mask[image], masked, self.places[text])


def fixed_batch(config: experiment.Config, items: int = parity.ITEMS) -> PairBatch:
    """Makes texts of 3 tokens up to the whole length, and images of one region up to the limit, every other one masked.

    Args:
        config: the configuration.
        items: the number of pairs.

    Returns:
        The batch, the same for the same configuration.
    """
    rng = np.random.default_rng(0)
    single, length, limit = config.single, config.data.text_length, config.pretrain.region_buckets[-1]
    lengths = np.linspace(min(3, length), length, items).astype(int)
    regions = np.linspace(limit, 1, items).astype(int)
    token_mask, region_mask = np.arange(length) < lengths[:, None], np.arange(limit) < regions[:, None]
    ids = rng.integers(min(FIRST_ID, single.vocab_size - 1), single.vocab_size, (items, length))
    corners = np.sort(rng.uniform(0, 1, (items, limit, 2, 2)), axis=2)
    features = rng.normal(size=(items, limit, single.regions.width)).astype(np.float32)
    return PairBatch(
        token_ids=np.where(token_mask, ids, 1 if single.position_offset else 0).astype(np.int32),
        token_mask=token_mask,
        features=np.where(region_mask[..., None], features, np.float32(0)),
        boxes=np.where(region_mask[..., None], corners.reshape(items, limit, 4), 0).astype(np.float32),
        region_mask=region_mask,
        region_masked=region_mask & (np.arange(limit) % 2 == 0),
        places=np.stack([np.zeros(items, int), lengths - 1], axis=1)[:, :PLACES],
    )


READERS = {
    "itm_head": ("itm_logits", "pooled"),
    "word_head": ("word_logits", "words"),
    "feature_head": ("features_at", "regions"),
    "class_head": ("class_logits", "regions"),
    "rank_head": ("rank_score", "pooled"),
    "answer_head": ("answer_logits", "pooled"),
}
"""Of each head: the method that asks it, and what it reads. A tower need not have all."""


def jax_answers(config: experiment.Config, variables: dict[str, Any], batch: PairBatch) -> Said:
    """Runs our tower, in float32 whatever the configuration trains in.

    Args:
        config: the configuration.
        variables: the tower's `params`.
        batch: the batch.

    Returns:
        Answers by the name of the head.
    """
    model = dataclasses.replace(config.model, dtype="float32")
    tower = Tower(dataclasses.replace(config, model=model))
    params = {TOWER: variables["params"]}
    judge = "rank_head" if "rank_head" in params[TOWER] else "itm_head"

    def encode(params: Any, batch: PairBatch) -> Hidden:
        hidden: Hidden = tower.call(params, "encode", *batch[:6], train=False)
        return hidden

    def answers(params: Any, batch: PairBatch) -> dict[str, jax.Array]:
        text, regions, pooled = encode(params, batch)
        read = {"pooled": pooled, "regions": regions, "words": at_places(text, jnp.asarray(batch.places))}
        heads = {head: reader for head, reader in READERS.items() if head in params[TOWER]}
        return {"pooled": pooled} | {head: tower.call(params, how, read[what]) for head, (how, what) in heads.items()}

    def scores(params: Any, batch: PairBatch) -> jax.Array:
        said: jax.Array = tower.call(params, READERS[judge][0], encode(params, batch).pooled)
        return said if judge == "rank_head" else said[:, MATCH]

    with jax.default_matmul_precision("highest"):
        said = jax.jit(answers)(params, jax.tree.map(jnp.asarray, batch))
        pairs = jax.jit(scores)(params, jax.tree.map(jnp.asarray, batch.crossed()))
    square = pairs.reshape(len(batch.token_ids), -1)
    return {name: np.asarray(value) for name, value in {**said, "pairs": square}.items()}


class SingleProof:
    """Every head's answers, and the ranking of all images for every text by rank head, or else by ITM head."""

    def __init__(self, config: experiment.Config, read: ReadTower) -> None:
        self.batch = fixed_batch(config)
        self._config, self._read = config, read
        self._ours: Said = {}

    def tower(self, name: str) -> dict[str, Any]:
        """What reading the tower gives; it is run on the batch."""
        variables = self._read(name)
        if not self._ours:
            self._ours = jax_answers(self._config, variables, self.batch)
        return variables

    def compare(self, theirs: Said) -> ProofFindings:
        """The largest difference of each head, absolute, and relative to its largest value where that is above 1."""
        if not self._ours:
            self.tower(TOWER)
        ours, figures, differences = dict(self._ours), {}, {}
        ranking = parity.ranking_agreement(ours["pairs"], theirs["pairs"])
        for name, mine in ours.items():
            other = theirs[name]
            if mine.shape != other.shape:
                raise ValueError(f"the artefact gives {name} of shape {other.shape}, not {mine.shape}")
            if name in ("feature_head", "class_head"):
                mine, other = mine[self.batch.region_mask], other[self.batch.region_mask]
            difference, size = float(np.abs(mine - other).max()), float(np.abs(mine).max())
            figures[name] = {"largest_difference": difference, "largest_value": size}
            differences[name] = difference / max(size, 1.0)
        lines = [
            f"{name}: largest difference {of['largest_difference']:.1e} of values up to {of['largest_value']:.1e}"
            for name, of in figures.items()
        ]
        return ProofFindings(
            items=len(self.batch.token_ids),
            figures={"heads": figures, "ranking": ranking},
            differences=differences,
            lines=[*lines, f"ranking agreement {ranking:.4f}"],
        )
