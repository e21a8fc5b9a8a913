"""Optimiser and learning-rate schedule from the configuration."""

from __future__ import annotations

import jax
import optax
from jaxtyping import Array, Float, PyTree

from wenlan_jax import schema, trees

NO_DECAY = (r"/(bias|scale)$", r"logit_scale$")
"""Parameters that weight decay leaves alone: biases, the scales of normalisations, the temperature."""


def schedule(config: schema.Optimizer, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up to the peak, then constant, cosine or linear to `final_fraction`."""
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
    """True at the leaves that weight decay acts on."""
    return trees.map_named(lambda name, _: not trees.matches(NO_DECAY, name), params)


def create(config: schema.Optimizer) -> optax.GradientTransformation:
    """The optimiser without its learning rate, which `apply` takes. It sees the trained leaves only."""
    parts: list[optax.GradientTransformation] = []
    decay = optax.add_decayed_weights(config.weight_decay, mask=decayed)
    if config.clip_norm > 0:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay > 0 and config.name != "adamw":
        parts.append(decay)
    if config.name == "sgd":
        parts.append(optax.trace(config.sgd_momentum) if config.sgd_momentum > 0 else optax.identity())
    else:
        parts.append(optax.scale_by_adam(config.b1, config.b2, config.eps))
    if config.weight_decay > 0 and config.name == "adamw":
        parts.append(decay)
    return optax.chain(*parts)


def apply(
    optimizer: optax.GradientTransformation,
    grads: PyTree,
    state: optax.OptState,
    params: PyTree,
    rate: Float[Array, ""],
) -> tuple[PyTree, optax.OptState]:
    """The trained leaves and the optimiser's state after a step of length `rate`."""
    directions, state = optimizer.update(grads, state, params)
    return jax.tree.map(lambda p, d: p - rate * d, params, directions), state
