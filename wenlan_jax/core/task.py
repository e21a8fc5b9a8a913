"""What the step and the loop know of a task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int, PyTree

from wenlan_jax.core.bank import Bank
from wenlan_jax.core.state import Momentum, Params, TrainState
from wenlan_jax.models.arrays import Array, Tree

Batch = dict[str, Array]
"""Arrays by name, one row a pair; `data/loader.py` lists the names."""

Rows = dict[str, Array]
"""What the losses need to know of every pair of the batch: keys and ids, one row a pair."""

Banks = dict[str, Bank]
Metrics = dict[str, Float[Array, ""]]


class Fresh(Tree):
    """The parts of a new state that a task makes; `step.init_state` adds the rest."""

    params: Params
    batch_stats: PyTree
    momentum: Momentum | None
    banks: Banks


class MicroLoss(Tree):
    """What one micro-batch gives.

    `loss` is its share of the loss: the gradients of all shares add up to the gradient of the whole batch.
    `metrics` (among them `loss`) add up to those of the whole batch. `batch_stats` are the running statistics after
    this micro-batch alone.
    """

    loss: Float[Array, ""]
    metrics: Metrics
    batch_stats: PyTree


class Own(Tree):
    """Where the pairs of a micro-batch stand in the batch, and their own rows, which lie where their pairs do."""

    positions: Int[Array, " n"]
    rows: Rows


@runtime_checkable
class Task(Protocol):
    """A task as pure functions over its part of the train state.

    `targets` runs before any gradient, for every micro-batch; `micro_loss` then sees the rows of all of them. That
    is what makes accumulation exact. Both get the same `rng` for the same micro-batch.
    """

    def kind_of(self, batch: Mapping[str, Any]) -> str:
        """Which of its objectives a batch is for, and of what lengths, for the log; empty where there is one kind."""
        ...

    def fresh(self, rng: Array) -> Fresh:
        """Newly initialised parts of the state."""
        ...

    def derive(self, params: Params, taken: Collection[str]) -> Params:
        """The parameters of a run that starts from others, of which `taken` names the leaves (`warm_start`)."""
        ...

    def prepare(self, micro: Batch, rng: Array, positions: Int[Array, " n"]) -> Batch:
        """Pairs as the model takes them, pictures jittered and normalised, by `rng` and their place in the batch."""
        ...

    def advance(self, state: TrainState) -> Momentum | None:
        """The momentum towers of this step, before any key is computed."""
        ...

    def targets(self, state: TrainState, micro: Batch, rng: Array) -> tuple[Rows, PyTree]:
        """The rows of a micro-batch, without gradient, and the key towers' statistics after it alone."""
        ...

    def micro_loss(
        self,
        params: Params,
        state: TrainState,
        micro: Batch,
        own: Own,
        rows: Rows,
        rng: Array,
    ) -> MicroLoss:
        """The share of some pairs of the batch, given their `own` rows and the `rows` of the whole batch."""
        ...

    def push(self, banks: Banks, rows: Rows, step: Int[Array, ""]) -> Banks:
        """The banks after this step."""
        ...

    def describe(self, state: TrainState) -> Metrics:
        """Further metrics of the state, e.g. fill and age of the banks."""
        ...
