"""Optimiser and learning-rate schedule from the configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax
import optax
from jaxtyping import Float, PyTree
from optax import contrib

from wenlan_jax.config import sections
from wenlan_jax.core import trees
from wenlan_jax.models.arrays import Array
from wenlan_jax.util.errors import WenlanError

NO_DECAY = (r"/(bias|scale)$", r"logit_scale$")
"""Parameters that weight decay leaves alone: biases, the scales of normalisations, the temperature."""


MUON_RMS = 0.2
"""Root mean square of muon's step of a matrix, that of a typical step of Adam, so that one learning rate suits both
(Liu et al. 2025, section 2.2)."""


class OptimizerError(WenlanError, ValueError):
    """Settings of the optimiser that do not fit the parameters."""


def schedule(config: sections.OptimizerConfig, steps: int) -> optax.Schedule:
    """Makes the learning-rate schedule: linear warm-up to the peak, then constant, cosine or linear decay.

    Args:
        config: the optimiser's section of the configuration.
        steps: the length of the run in steps; decay ends there at `final_fraction` of the peak.

    Returns:
        A function from the step to the learning rate.
    """
    peak, rest = config.learning_rate, max(steps - config.warmup_steps, 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction),
        "linear": lambda: optax.linear_schedule(peak, peak * config.final_fraction, rest),
    }[config.schedule]()
    if config.warmup_steps == 0:
        return after
    warm_up = optax.linear_schedule(0.0, peak, config.warmup_steps)
    return optax.join_schedules([warm_up, after], [config.warmup_steps])


def decayed(params: PyTree) -> PyTree:
    """Marks the leaves that weight decay acts on.

    Args:
        params: a tree of parameters.

    Returns:
        A tree of the same structure with True at all leaves but those that `NO_DECAY` names.
    """
    return trees.map_named(lambda name, _: not trees.matches(NO_DECAY, name), params)


def create(config: sections.OptimizerConfig) -> optax.GradientTransformation:
    """Makes the optimiser without its learning rate, which `apply` takes.

    Args:
        config: the optimiser's section of the configuration.

    Returns:
        A transformation from gradients to directions: clipping, the named optimiser, weight decay, and longer steps for
        some parameters (`faster`). Initialise it with the trained leaves only.

    Raises:
        OptimizerError: if `config.faster` holds a pattern that is no regular expression.
    """
    parts: list[optax.GradientTransformation] = []
    decay = optax.add_decayed_weights(config.weight_decay, mask=decayed)
    if config.clip_norm > 0:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    decoupled = config.name in ("adamw", "muon")
    if config.weight_decay > 0 and not decoupled:
        parts.append(decay)
    parts.append(_direction(config))
    if config.weight_decay > 0 and decoupled:
        parts.append(decay)
    if config.faster:
        parts.append(faster(config.faster, config.faster_times))
    return optax.chain(*parts)


def _direction(config: sections.OptimizerConfig) -> optax.GradientTransformation:
    """What a step goes along, from the gradients alone."""
    match config.name:
        case "sgd":
            return optax.trace(config.sgd_momentum) if config.sgd_momentum > 0 else optax.identity()
        case "muon":
            return contrib.muon(
                learning_rate=-1.0,  # Optax turns the direction round, and `apply` does
                beta=config.muon_momentum,
                eps=config.eps,
                adam_b1=config.b1,
                adam_b2=config.b2,
                muon_weight_dimension_numbers=matrices,
                consistent_rms=MUON_RMS,
            )
    return optax.scale_by_adam(config.b1, config.b2, config.eps)


def matrices(params: PyTree) -> PyTree:
    """Says which leaves muon takes, and along which axes: kernels of linear layers, also stacked ones.

    Tables of words and positions are no map between hidden states, and convolutions are left to adam.

    Args:
        params: a tree of parameters.

    Returns:
        A tree of the same structure: the axes of inputs and outputs for muon, None for leaves left to adam.
    """

    def axes(name: str, leaf: Array) -> contrib.MuonDimensionNumbers | None:
        rank = len(leaf.shape)
        is_linear = name.endswith("/kernel") and rank in (2, 3)
        return contrib.MuonDimensionNumbers(rank - 2, rank - 1) if is_linear else None

    return trees.map_named(axes, params)


def faster(patterns: Sequence[str], times: float) -> optax.GradientTransformation:
    """Makes steps `times` as long for the parameters whose paths match.

    It must be the last of a chain, so that weight decay grows with the steps.

    Args:
        patterns: regular expressions, searched in the paths of parameters.
        times: the factor of the learning rate.

    Returns:
        The transformation. Its `init` raises OptimizerError for a pattern that matches no trained parameter.

    Raises:
        OptimizerError: for a pattern that is no regular expression.
    """
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise OptimizerError(f"optimizer.faster: {pattern!r} is not a regular expression ({error})") from error

    def init(params: PyTree) -> optax.EmptyState:
        names = list(trees.flatten(params))
        idle = [pattern for pattern in patterns if not any(trees.matches([pattern], name) for name in names)]
        if idle:
            some = f"; e.g. {names[0]}" if names else ""
            raise OptimizerError(f"optimizer.faster: no trained parameter matches {', '.join(map(repr, idle))}{some}")
        return optax.EmptyState()

    def update(
        directions: PyTree, state: optax.OptState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.OptState]:
        return trees.map_named(lambda name, d: times * d if trees.matches(patterns, name) else d, directions), state

    return optax.GradientTransformation(init, update)


def apply(
    optimizer: optax.GradientTransformation,
    grads: PyTree,
    state: optax.OptState,
    params: PyTree,
    rate: Float[Array, ""],
) -> tuple[PyTree, optax.OptState]:
    """Takes one step of the optimiser.

    Args:
        optimizer: the transformation that `create` made.
        grads: gradients of the trained leaves.
        state: the optimiser's state.
        params: the trained leaves.
        rate: the learning rate.

    Returns:
        The trained leaves and the optimiser's state after the step.
    """
    directions, state = optimizer.update(grads, state, params)
    return jax.tree.map(lambda p, d: p - rate * d, params, directions), state
