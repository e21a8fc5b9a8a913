"""BriVL: cross-modal contrast against momentum keys and two banks of negatives (configs/PAPERS.md)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Int, PRNGKeyArray, PyTree

from wenlan_jax.core import bank, momentum
from wenlan_jax.core.state import Momentum, Params, TrainState
from wenlan_jax.core.task import Banks, Batch, Keys, Metrics, MicroLoss, MicroPairs, NewState
from wenlan_jax.losses import contrastive
from wenlan_jax.models.arrays import Array
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower.directions import OTHER, direction_metrics, fresh_scale, read_scale
from wenlan_jax.tasks.two_tower.towers import Towers

KEYS, QUERIES = 0, 1
"""Streams of dropout: keys and queries of a pair are dropped out independently."""


class BriVL:
    """The task `brivl`: contrast of the two towers with key encoders and banks of negatives.

    Source: configs/PAPERS.md, key encoders, queues, loss.

    Each query is contrasted with the key of its own pair and the keys of the other modality in the bank; the two
    directions are averaged over the batch and summed. Keys come from the key encoders in training mode, as in
    the released code; the batch is not shuffled for them: queries of one modality meet keys of the other, and only
    the image tower has batch statistics, so there is nothing to leak.

    Args:
        config: the configuration.
        mesh: the devices that the task runs on.
    """

    def __init__(self, config: experiment.Config, mesh: Mesh) -> None:
        self.config = config
        self.contrast = config.contrast
        self.mesh = mesh
        self.towers = Towers(config, mesh)

    def kind_of(self, batch: Mapping[str, Any]) -> str:
        """Returns an empty text: there is one kind of batch."""
        return ""

    def fresh(self, rng: PRNGKeyArray) -> NewState:
        """Initialises the towers, their key encoders as copies, and two banks."""
        tower_rng, *bank_rngs = jax.random.split(rng, 3)
        variables = self.towers.init(tower_rng)
        random = self.contrast.bank_start == "random"
        banks = {
            name: bank.create(
                self.contrast.bank_size,
                self.config.train.batch_size,
                self.config.model.embedding,
                key if random else None,
            )
            for name, key in zip(OTHER, bank_rngs, strict=True)
        }
        copy = jax.tree.map(jnp.copy, variables)
        params = {**variables["params"], **fresh_scale(self.contrast)}
        return NewState(params, variables["batch_stats"], Momentum(copy["params"], copy["batch_stats"]), banks)

    def derive(self, params: Params, taken: Collection[str]) -> Params:
        """Leaves the parameters that were not taken as they were drawn."""
        return params

    def prepare(self, micro: Batch, rng: PRNGKeyArray, positions: Int[Array, " n"]) -> Batch:
        """Jitters and normalises the images; they are the same for query and key [C]."""
        return self.towers.prepare(micro, rng, positions)

    def advance(self, state: TrainState) -> Momentum | None:
        """Moves the key encoders at the start of the step."""
        assert state.momentum is not None
        towers = {name: state.params[name] for name in OTHER}
        return state.momentum.replace(params=momentum.update(state.momentum.params, towers, self.contrast.momentum))

    def encode_keys(self, state: TrainState, micro: Batch, rng: PRNGKeyArray) -> tuple[Keys, PyTree]:
        """Computes the keys of both modalities; the ids come along."""
        assert state.momentum is not None
        keys, stats = self.towers.embed(
            state.momentum.params, state.momentum.batch_stats, micro, jax.random.fold_in(rng, KEYS)
        )
        return {**keys, "id": micro["id"]}, stats

    def micro_loss(
        self,
        params: Params,
        state: TrainState,
        micro: Batch,
        pairs: MicroPairs,
        keys: Keys,
        rng: PRNGKeyArray,
    ) -> MicroLoss:
        """Computes both directions of the loss, divided by the size of the whole batch: shares of a mean add up."""
        queries, stats = self.towers.embed(params, state.batch_stats, micro, jax.random.fold_in(rng, QUERIES))
        scale = read_scale(params, self.contrast)
        banks = self.counted_banks(state)
        positives = None
        if self.contrast.multi_label_top_k:
            positives = contrastive.mutual_top_k(
                pairs.keys["image"],
                pairs.keys["text"],
                banks["image"],
                banks["text"],
                self.contrast.multi_label_top_k,
            )
        directions = {
            f"{name}_to_{other}": contrastive.info_nce(
                queries[name],
                pairs.keys[other],
                micro["id"],
                scale,
                bank=banks[other],
                batch_keys=keys[other] if self.contrast.in_batch_negatives else None,
                batch_ids=keys["id"],
                positive_rows=pairs.positions,
                positives=positives,
                mesh=self.mesh,
                mask_false_negatives=self.contrast.mask_false_negatives,
            )
            for name, other in OTHER.items()
        }
        metrics = direction_metrics(directions, keys["id"].shape[0])
        if self.contrast.multi_label_top_k:
            extra = sum((d.extra_positives for d in directions.values()), start=jnp.zeros(()))
            metrics["extra_positives"] = extra / keys["id"].shape[0]
        return MicroLoss(metrics["loss"], metrics, stats)

    def counted_banks(self, state: TrainState) -> Banks:
        """Returns the banks as the loss sees them: without an entry before `bank_from_step`."""
        counts = state.step >= self.contrast.bank_from_step
        return {name: b.replace(fill=jnp.where(counts, b.fill, 0)) for name, b in state.banks.items()}

    def push(self, banks: Banks, keys: Keys, step: Int[Array, ""]) -> Banks:
        """Pushes the keys of the batch into the banks, as the newest negatives."""
        return {name: bank.push(banks[name], keys[name], keys["id"], step) for name in OTHER}

    def describe(self, state: TrainState) -> Metrics:
        """Computes temperature, fill and age of the banks, and the loss of a model that knows nothing."""
        fill = self.counted_banks(state)["image"].fill.astype(jnp.float32)
        others = self.config.train.batch_size - 1 if self.contrast.in_batch_negatives else 0
        return {
            "bank_fill": fill,
            "bank_oldest_age": bank.oldest_age(state.banks["image"], state.step).astype(jnp.float32),
            "temperature": 1.0 / read_scale(state.params, self.contrast),
            "loss_reference": 2 * jnp.log1p(fill + others),
        }
