"""CLIP on the same towers: in-batch negatives, no momentum, no bank; the papers' baseline (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Int, PRNGKeyArray, PyTree

from wenlan_jax.core.state import Momentum, Params, TrainState
from wenlan_jax.core.task import Banks, Batch, Keys, Metrics, MicroLoss, MicroPairs, NewState
from wenlan_jax.losses import contrastive
from wenlan_jax.models.arrays import Array
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.two_tower.directions import OTHER, direction_metrics, fresh_scale, read_scale
from wenlan_jax.tasks.two_tower.towers import Towers


class Clip:
    """The task `clip`: contrast within the batch (Radford et al. 2021).

    The two directions are summed, as in BriVL (CLIP halves the sum; Adam does not see a factor).

    Both sides of every logit carry gradient, so micro-batches are not independent. With accumulation the towers run
    once without gradient for all embeddings; each micro-batch then puts its own rows back with gradient, and the
    gradients add up to that of the whole batch (the idea of Gao et al. 2021, gradient cache). Both runs of a
    micro-batch draw the same dropout.

    Args:
        config: the configuration.
        mesh: the devices that the task runs on.
    """

    def __init__(self, config: experiment.Config, mesh: Mesh) -> None:
        self.config = config
        self.contrast = config.contrast
        self.towers = Towers(config, mesh)

    def kind_of(self, batch: Mapping[str, Any]) -> str:
        """Returns an empty text: there is one kind of batch."""
        return ""

    def fresh(self, rng: PRNGKeyArray) -> NewState:
        """Initialises the towers; there are no key encoders and no banks."""
        variables = self.towers.init(rng)
        params = {**variables["params"], **fresh_scale(self.contrast)}
        return NewState(params, variables["batch_stats"], None, {})

    def derive(self, params: Params, taken: Collection[str]) -> Params:
        """Leaves the parameters that were not taken as they were drawn."""
        return params

    def prepare(self, micro: Batch, rng: PRNGKeyArray, positions: Int[Array, " n"]) -> Batch:
        """Jitters and normalises the images."""
        return self.towers.prepare(micro, rng, positions)

    def advance(self, state: TrainState) -> Momentum | None:
        """Returns None: there are no key encoders."""
        return None

    def encode_keys(self, state: TrainState, micro: Batch, rng: PRNGKeyArray) -> tuple[Keys, PyTree]:
        """Returns the ids, and with accumulation the embeddings of all pairs."""
        if self.config.train.accumulation == 1:
            return {"id": micro["id"]}, {}
        embeddings, _ = self.towers.embed(state.params, state.batch_stats, micro, rng)
        return {**embeddings, "id": micro["id"]}, {}

    def micro_loss(
        self,
        params: Params,
        state: TrainState,
        micro: Batch,
        pairs: MicroPairs,
        keys: Keys,
        rng: PRNGKeyArray,
    ) -> MicroLoss:
        """Computes the loss of the whole batch, with gradient through the rows of this micro-batch only."""
        live, stats = self.towers.embed(params, state.batch_stats, micro, rng)
        parts = self.config.train.accumulation
        ids, batch = keys["id"], keys["id"].shape[0]
        embeddings = live if parts == 1 else {n: keys[n].at[pairs.positions].set(live[n]) for n in OTHER}
        scale = read_scale(params, self.contrast)
        # Every micro-batch sees the whole loss, so the temperature would be moved `parts` times.
        scale = jax.lax.stop_gradient(scale) + (scale - jax.lax.stop_gradient(scale)) / parts
        directions = {
            f"{name}_to_{other}": contrastive.info_nce(
                embeddings[name],
                embeddings[other],
                ids,
                scale,
                batch_keys=embeddings[other],
                batch_ids=ids,
                positive_rows=jnp.arange(batch),
                mask_false_negatives=self.contrast.mask_false_negatives,
            )
            for name, other in OTHER.items()
        }
        metrics = direction_metrics(directions, batch)
        return MicroLoss(metrics["loss"], jax.tree.map(lambda x: x / parts, metrics), stats)

    def push(self, banks: Banks, keys: Keys, step: Int[Array, ""]) -> Banks:
        """Returns `banks` as they are: there are none."""
        return banks

    def describe(self, state: TrainState) -> Metrics:
        """Computes temperature, and the loss of a model that knows nothing."""
        return {
            "temperature": 1.0 / read_scale(state.params, self.contrast),
            "loss_reference": jnp.asarray(2 * jnp.log(float(self.config.train.batch_size))),
        }
