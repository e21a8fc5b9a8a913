"""The single tower (MLMM, UNITER, UC2) as a task: pretraining, and fine-tuning for retrieval or for questions.

A step trains the one objective that its batch is for (`of_batch`); there are no key encoders and no
banks. Where regions are pooled on BriVL's feature map, the backbone is part of the parameters and stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Int, PRNGKeyArray, PyTree

from wenlan_jax.core.state import Momentum, Params, TrainState
from wenlan_jax.core.task import Banks, Batch, Keys, Metrics, MicroLoss, MicroPairs, NewState
from wenlan_jax.models.arrays import Array
from wenlan_jax.models.single_tower import rank_from_itm
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.single_tower import objectives
from wenlan_jax.tasks.single_tower.batch import of_batch
from wenlan_jax.tasks.single_tower.spec import TOWER
from wenlan_jax.tasks.single_tower.tower import Tower

WEIGHT = "weight"
"""Of each pair in the mean of its objective, among the rows of a step."""


class SingleTowerTask:
    """The tasks `mlmm`, `rank` and `vqa` (configs/PAPERS.md, MLMM, UNITER and UC2).

    Args:
        config: the configuration.
        mesh: the devices that the task runs on.
    """

    def __init__(self, config: experiment.Config, mesh: Mesh) -> None:
        self.config = config
        self.tower = Tower(config, mesh)

    def kind_of(self, batch: Mapping[str, Any]) -> str:
        """Says objective and lengths of a batch."""
        tokens, regions = batch["token_ids"].shape[1], batch["region_boxes"].shape[1]
        return f"{of_batch(batch)}, {tokens} tokens and {regions} regions"

    def fresh(self, rng: PRNGKeyArray) -> NewState:
        """Initialises the tower; there are no key encoders and no banks."""
        return NewState(*self.tower.init(rng), None, {})

    def derive(self, params: Params, taken: Collection[str]) -> Params:
        """Makes a rank head that was not taken score by the logit of a match, as UNITER's fine-tuning starts."""
        prefix = f"params/{TOWER}/"
        if "rank_head" not in params[TOWER] or any(name.startswith(prefix + "rank_head/") for name in taken):
            return params
        if not any(name.startswith(prefix + "itm_head/") for name in taken):
            return params
        return {**params, TOWER: rank_from_itm(params[TOWER])}

    def prepare(self, micro: Batch, rng: PRNGKeyArray, positions: Int[Array, " n"]) -> Batch:
        """Returns the pairs as they are: images are not jittered, as a detector's features are not, either."""
        return micro

    def advance(self, state: TrainState) -> Momentum | None:
        """Returns None: there are no key encoders."""
        return None

    def encode_keys(self, state: TrainState, micro: Batch, rng: PRNGKeyArray) -> tuple[Keys, PyTree]:
        """Computes the weight of every pair, which the whole batch is divided by; the ids come along."""
        weights = objectives.OBJECTIVES[of_batch(micro)].weights(self.config, micro)
        return {"id": micro["id"], WEIGHT: weights}, {}

    def micro_loss(
        self, params: Params, state: TrainState, micro: Batch, pairs: MicroPairs, keys: Keys, rng: PRNGKeyArray
    ) -> MicroLoss:
        """Computes the share of these pairs in the mean over the weights of the whole batch."""
        name = of_batch(micro)
        given = objectives.ObjectiveInput(self.config, self.tower, params, state.batch_stats, micro, rng)
        sums = objectives.OBJECTIVES[name].sums(given)
        total = jnp.maximum(jnp.sum(keys[WEIGHT]), 1e-9)  # no question has an answer, or no word is masked
        metrics = {f"{name}_{metric}": value / total for metric, value in sums.metrics.items()}
        loss = sums.loss / total
        metrics |= {"loss": loss, f"{name}_loss": loss, "loss_reference": sums.reference / total}
        return MicroLoss(loss, metrics, state.batch_stats)

    def push(self, banks: Banks, keys: Keys, step: Int[Array, ""]) -> Banks:
        """Returns `banks` as they are: there are none."""
        return banks

    def describe(self, state: TrainState) -> Metrics:
        """Returns nothing: the objective has told it all."""
        return {}
