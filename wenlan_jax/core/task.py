"""What the step and the loop know of a task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int, PRNGKeyArray, PyTree

from wenlan_jax.core.bank import Bank
from wenlan_jax.core.state import Momentum, Params, TrainState
from wenlan_jax.models.arrays import Array, Tree

Batch = dict[str, Array]
"""Arrays by name, one row a pair; `TaskSpec.batch_spec` declares them."""

Keys = dict[str, Array]
"""What the losses need to know of every pair of the batch: its keys and `id`, one row a pair."""

Banks = dict[str, Bank]
Metrics = dict[str, Float[Array, ""]]


class NewState(Tree):
    """The parts of a new state that a task makes; `step.init_state` adds the rest.

    Attributes:
        params: parameters, float32.
        batch_stats: running statistics of batch normalisation.
        momentum: the key encoders; None for tasks without them.
        banks: the banks of negatives; empty for tasks without them.
    """

    params: Params
    batch_stats: PyTree
    momentum: Momentum | None
    banks: Banks


class MicroLoss(Tree):
    """The loss of one micro-batch.

    Attributes:
        loss: its share of the loss; the gradients of all shares add up to the gradient of the whole batch.
        metrics: add up to those of the whole batch; `loss` is among them.
        batch_stats: the running statistics after this micro-batch alone.
    """

    loss: Float[Array, ""]
    metrics: Metrics
    batch_stats: PyTree


class MicroPairs(Tree):
    """The pairs of a micro-batch.

    Attributes:
        positions: the rows of its pairs in the whole batch.
        keys: their keys and ids, on the devices where the pairs lie.
    """

    positions: Int[Array, " n"]
    keys: Keys


@runtime_checkable
class Task(Protocol):
    """A task as pure functions over its part of the train state.

    `encode_keys` runs before any gradient, for every micro-batch; `micro_loss` then sees the keys of all of them. That
    is what makes accumulation exact. Both get the same `rng` for the same micro-batch.
    """

    def kind_of(self, batch: Mapping[str, Any]) -> str:
        """Says which of its objectives a batch is for, and of what lengths, for the log.

        Args:
            batch: arrays by name.

        Returns:
            A few words; empty where there is one kind of batch.
        """
        ...

    def fresh(self, rng: PRNGKeyArray) -> NewState:
        """Initialises the task's parts of the state.

        Args:
            rng: a key of jax.random.

        Returns:
            Newly initialised parameters, key encoders and banks.
        """
        ...

    def derive(self, params: Params, taken: Collection[str]) -> Params:
        """Fills in the parameters of a run that starts from other weights (`init_from`).

        Args:
            params: the parameters of the run.
            taken: the names of the leaves that came from the other weights.

        Returns:
            The parameters to start with.
        """
        ...

    def prepare(self, micro: Batch, rng: PRNGKeyArray, positions: Int[Array, " n"]) -> Batch:
        """Makes pairs what the model takes: images are augmented and normalised.

        Args:
            micro: the pairs of a micro-batch, as the loader gives them.
            rng: the key of the step's augmentation.
            positions: the rows of the pairs in the whole batch; augmentation depends on these, not on the split.

        Returns:
            The pairs by the names that `encode_keys` and `micro_loss` read.
        """
        ...

    def advance(self, state: TrainState) -> Momentum | None:
        """Moves the key encoders, before any key is computed.

        Args:
            state: the state before the step.

        Returns:
            The key encoders of this step; None for tasks without them.
        """
        ...

    def encode_keys(self, state: TrainState, micro: Batch, rng: PRNGKeyArray) -> tuple[Keys, PyTree]:
        """Computes the keys of a micro-batch, without gradient.

        Args:
            state: the state, with the key encoders of this step.
            micro: the prepared pairs.
            rng: the key of this micro-batch; `micro_loss` gets the same.

        Returns:
            Keys and ids of its pairs, and the key encoders' statistics after this micro-batch alone.
        """
        ...

    def micro_loss(
        self,
        params: Params,
        state: TrainState,
        micro: Batch,
        pairs: MicroPairs,
        keys: Keys,
        rng: PRNGKeyArray,
    ) -> MicroLoss:
        """Computes the share of a micro-batch in the loss.

        Args:
            params: the parameters to differentiate by, trained and frozen.
            state: the state, with the key encoders of this step.
            micro: the prepared pairs.
            pairs: the positions and keys of these pairs.
            keys: the keys and ids of the whole batch.
            rng: the key of this micro-batch.

        Returns:
            Loss, metrics and running statistics.
        """
        ...

    def push(self, banks: Banks, keys: Keys, step: Int[Array, ""]) -> Banks:
        """Pushes the keys of the batch into the banks.

        Args:
            banks: the banks before the step.
            keys: the keys and ids of the whole batch.
            step: the step.

        Returns:
            The banks after the step.
        """
        ...

    def describe(self, state: TrainState) -> Metrics:
        """Computes further metrics of the state, e.g. fill and age of the banks."""
        ...
