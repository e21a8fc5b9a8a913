"""The train step: one for all tasks, accumulations and meshes.

Order within a step, as in the released code [C]: momentum update, keys, loss against the banks as they were,
gradient step, push. A step whose loss or gradient is not finite changes nothing but the counters.

Accumulation: the batch is computed in k micro-batches with the same loss and gradient as in one, since every loss
sees the keys of the whole batch (`Task.encode_keys`) and the banks. Micro-batch j takes every k-th unit of consecutive
examples, a unit being a group of batch normalisation, so that groups stay whole and every device works on each
micro-batch. Two things differ: dropout masks, which are drawn per micro-batch, and batch normalisation over the
whole batch, which the configuration refuses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Int, PyTree, UInt32

from wenlan_jax.core import optim, rngs, trees
from wenlan_jax.core.state import Momentum, Params, TrainState
from wenlan_jax.core.task import Batch, Keys, Metrics, MicroLoss, MicroPairs, Task
from wenlan_jax.models.arrays import Array
from wenlan_jax.util.errors import WenlanError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class StepRecipe:
    """What a step needs besides state and batch.

    Attributes:
        task: the task, as pure functions.
        optimizer: makes directions of gradients, see `optim.create`.
        schedule: the learning rate by steps taken; skipped steps do not count.
        freeze: regular expressions, searched in the names of parameters; what matches is not trained.
        accumulation: the number of micro-batches in a step.
        unit: how many consecutive examples stay together when a batch is split.
    """

    task: Task
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    freeze: Sequence[str]
    accumulation: int
    unit: int
    halt: bool
    """After a step that is not finite, change nothing any more: the loop is about to stop."""
    skipped_before: int = 0
    """Steps that earlier starts of the run skipped; they do not halt this one."""

    def is_trained(self, name: str) -> bool:
        """Whether the parameter `name` is trained."""
        return not trees.matches(self.freeze, name)


@dataclasses.dataclass(frozen=True)
class PassResult:
    """The results of one forward and backward pass, before any is applied.

    Attributes:
        state: the state before the step, with the key encoders of this step.
        keys: keys and ids of the whole batch.
        grads: gradients of the trained leaves.
        metrics: the task's metrics of the batch.
        batch_stats: the running statistics after the batch.
    """

    state: TrainState
    keys: Keys
    grads: Params
    metrics: Metrics
    batch_stats: PyTree


class FreezeError(WenlanError, ValueError):
    """Freezing patterns that freeze nothing, or everything."""


def init_state(recipe: StepRecipe, root: UInt32[Array, 2]) -> TrainState:
    """Makes the state before the first step.

    Args:
        recipe: the task, the optimiser and the frozen parameters.
        root: the root key of the run, from `rngs.root`.

    Returns:
        A state with newly initialised parameters, at step 0.
    """
    fresh = recipe.task.fresh(rngs.stream(root, "init", 0))
    trained, _ = trees.split(fresh.params, recipe.is_trained)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=fresh.params,
        batch_stats=fresh.batch_stats,
        momentum=fresh.momentum,
        banks=fresh.banks,
        opt_state=recipe.optimizer.init(trained),
        rng=root,
        skipped=jnp.zeros((), jnp.int32),
    )


def check_freeze(recipe: StepRecipe, params: Params) -> None:
    """Checks the patterns of frozen parameters against the parameters that there are.

    Args:
        recipe: holds the patterns.
        params: the parameters of the model.

    Raises:
        FreezeError: for a pattern that matches no parameter, or when no parameter is left to train.
    """
    names = list(trees.flatten(params))
    idle = [pattern for pattern in recipe.freeze if not any(trees.matches([pattern], name) for name in names)]
    if idle:
        raise FreezeError(f"model.freeze: no parameter matches {', '.join(map(repr, idle))}; e.g. {names[0]}")
    if not any(recipe.is_trained(name) for name in names):
        raise FreezeError("model.freeze: all parameters are frozen, nothing is left to train")


def train_step(recipe: StepRecipe, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Takes one training step. Pure; jit it and donate `state`.

    A step whose loss or gradient is not finite changes nothing but the counters. With `recipe.halt`, neither does any
    step after it.

    Args:
        recipe: the task, the optimiser and how a batch is split.
        state: the state before the step.
        batch: arrays of the global batch by name, one row a pair.

    Returns:
        The state after the step, and its metrics as float32 scalars: the task's, `grad_norm`, `learning_rate`, `finite`
        (1 or 0) and `skipped` (the number so far).

    Example:
        >>> step = jax.jit(functools.partial(train_step, recipe), donate_argnums=0)
        >>> state, metrics = step(state, batch)
    """
    done = forward_backward(recipe, state, batch)
    trained, frozen = trees.split(state.params, recipe.is_trained)
    # Skipped steps do not count for the schedule.
    rate = jnp.asarray(recipe.schedule(state.step - state.skipped), jnp.float32)
    trained, opt_state = optim.apply(recipe.optimizer, done.grads, state.opt_state, trained, rate)
    taken = done.state.replace(
        params=trees.merge(trained, frozen),
        batch_stats=done.batch_stats,
        opt_state=opt_state,
        banks=recipe.task.push(state.banks, done.keys, state.step),
    )
    grad_norm = optax.tree.norm(done.grads)
    finite = jnp.isfinite(done.metrics["loss"]) & jnp.isfinite(grad_norm)
    if recipe.halt:
        finite &= state.skipped == recipe.skipped_before
    after = trees.select(finite, taken, state).replace(
        step=state.step + 1, skipped=state.skipped + (1 - finite.astype(jnp.int32))
    )
    metrics = {**done.metrics, "grad_norm": grad_norm, "learning_rate": rate, **recipe.task.describe(after)}
    return after, {
        **metrics,
        "finite": finite.astype(jnp.float32),
        "skipped": after.skipped.astype(jnp.float32),
    }


def forward_backward(recipe: StepRecipe, state: TrainState, batch: Batch) -> PassResult:
    """Computes keys, loss and gradients of the trained leaves for one batch.

    Keys of all micro-batches come first, then the loss of each micro-batch against all of them, so that gradient
    accumulation is exact.

    Args:
        recipe: the task and how a batch is split.
        state: the state before the step.
        batch: arrays of the global batch by name, one row a pair.

    Returns:
        The pass; its `state` has the key encoders of this step, and nothing else is changed.
    """
    task, k = recipe.task, recipe.accumulation

    def rng(index: Any) -> Array:
        return rngs.stream(state.rng, "micro-batch", state.step, index)

    def prepare(micro: Batch, positions: Int[Array, " n"]) -> Batch:
        return task.prepare(micro, rngs.stream(state.rng, "augment", state.step), positions)

    def prepared(micro: Batch, positions: Int[Array, " n"]) -> Batch:
        return micro if k == 1 else prepare(micro, positions)

    positions = jnp.arange(next(iter(batch.values())).shape[0])
    if k == 1:  # once for keys and queries; a micro-batch is rather prepared twice than all of them kept as floats
        batch = prepare(batch, positions)
    micros, positions = _to_micro((batch, positions), k, recipe.unit)
    state = state.replace(momentum=task.advance(state))

    def targets(index: Any, micro: Batch, positions: Int[Array, " n"]) -> tuple[Keys, PyTree]:
        return jax.lax.stop_gradient(task.encode_keys(state, prepared(micro, positions), rng(index)))

    keys, key_stats = _each_micro(targets, k, micros, positions)
    pairs = MicroPairs(positions, keys)
    keys = _from_micro(keys, k, recipe.unit)
    if state.momentum is not None:
        stats = _mean_change(state.momentum.batch_stats, key_stats, k)
        state = state.replace(momentum=Momentum(state.momentum.params, stats))
    trained, frozen = trees.split(state.params, recipe.is_trained)

    def share(trained: Params, index: Any, micro: Batch, pairs: MicroPairs) -> tuple[Array, MicroLoss]:
        params = trees.merge(trained, frozen)
        result = task.micro_loss(params, state, prepared(micro, pairs.positions), pairs, keys, rng(index))
        return result.loss, result

    def gradients(index: Any, inputs: tuple[Batch, MicroPairs]) -> tuple[Params, Metrics, PyTree]:
        grads, result = jax.grad(share, has_aux=True)(trained, index, *inputs)
        return grads, result.metrics, result.batch_stats

    if k == 1:
        return PassResult(state, keys, *gradients(0, jax.tree.map(lambda x: x[0], (micros, pairs))))

    def add(total: T, inputs: Any) -> tuple[T, PyTree]:
        *sums, stats = gradients(*inputs)
        return jax.tree.map(jnp.add, total, tuple(sums)), stats

    first = (jnp.zeros((), jnp.int32), jax.tree.map(lambda x: x[0], (micros, pairs)))
    *sums, _ = jax.eval_shape(gradients, *first)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tuple(sums))
    (grads, metrics), stats = jax.lax.scan(add, zero, (jnp.arange(k), (micros, pairs)))
    return PassResult(state, keys, grads, metrics, _mean_change(state.batch_stats, stats, k))


def finiteness(recipe: StepRecipe, state: TrainState, batch: Batch) -> dict[str, dict[str, Bool[Array, ""]]]:
    """Says which values of a step are finite, for the message about a step that is not.

    Args:
        recipe: the task and how a batch is split.
        state: the state before the step.
        batch: the batch of the step.

    Returns:
        By stage (see `STAGES`) and name of the leaf, whether all its values are finite.
    """
    done = forward_backward(recipe, state, batch)
    trees_of = (
        state.params,
        state.batch_stats,
        state.momentum,
        state.banks,
        done.keys,
        done.metrics,
        done.batch_stats,
        done.grads,
    )
    return {
        stage: {name: trees.all_finite(leaf) for name, leaf in trees.flatten(tree).items()}
        for stage, tree in zip(STAGES, trees_of, strict=True)
    }


STAGES = ("params", "batch_stats", "momentum", "banks", "keys", "metrics", "new batch_stats", "gradient of")
"""The stages of a step, in the order in which a value that is not finite spreads."""


def culprits(finite: dict[str, dict[str, Any]]) -> list[str]:
    """Lists what is not finite, in the order in which it spreads.

    Args:
        finite: the result of `finiteness`.

    Returns:
        Stage and name of each value that is not finite, the origin first.
    """
    return [f"{stage} {name}" for stage in STAGES for name, good in finite[stage].items() if not good]


def _to_micro(tree: T, k: int, unit: int) -> T:
    """Keys (batch, ...) as (k, batch / k, ...), whole units dealt out in turn."""

    def deal(x: Array) -> Array:
        if k == 1:
            return x[None]
        return x.reshape(-1, k, unit, *x.shape[1:]).swapaxes(0, 1).reshape(k, -1, *x.shape[1:])

    return jax.tree.map(deal, tree)


def _from_micro(tree: T, k: int, unit: int) -> T:
    """The inverse of `_to_micro`."""

    def gather(x: Array) -> Array:
        if k == 1:
            return x[0]
        return x.reshape(k, -1, unit, *x.shape[2:]).swapaxes(0, 1).reshape(-1, *x.shape[2:])

    return jax.tree.map(gather, tree)


def _each_micro(function: Callable[..., T], k: int, *micros: Any) -> T:
    """`function(index, *micro)` for every micro-batch, results stacked; one after another, to bound the memory."""
    if k == 1:
        return jax.tree.map(lambda x: x[None], function(0, *jax.tree.map(lambda x: x[0], micros)))
    return jax.lax.map(lambda inputs: function(*inputs), (jnp.arange(k), *micros))


def _mean_change(before: T, after: T, k: int) -> T:
    """Statistics after a step from those after each micro-batch alone; what did not change stays bit for bit."""
    if k == 1:
        return jax.tree.map(lambda new: new[0], after)
    return jax.tree.map(lambda old, new: old + jnp.mean(new - old[None], axis=0), before, after)
