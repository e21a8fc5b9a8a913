"""What the contrastive tasks share: the two directions, the temperature and the metrics."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from wenlan_jax.core.state import Params
from wenlan_jax.core.task import Metrics
from wenlan_jax.losses import contrastive
from wenlan_jax.models.arrays import Array
from wenlan_jax.tasks.two_tower import schema as two_towers

OTHER = {"image": "text", "text": "image"}
"""The two towers, and what each is contrasted with."""


def fresh_scale(config: two_towers.ContrastConfig) -> dict[str, Array]:
    """Initialises the parameter of a learnable temperature.

    Args:
        config: the section `contrast` of the configuration.

    Returns:
        `logit_scale`, log(1 / tau); nothing if the temperature is fixed.
    """
    if not config.learnable_temperature:
        return {}
    return {"logit_scale": -jnp.log(jnp.asarray(config.temperature, jnp.float32))}


def read_scale(params: Params, config: two_towers.ContrastConfig) -> Float[Array, ""]:
    """Reads 1 / tau from the parameters or, if it is fixed, from the configuration.

    Args:
        params: the parameters of the state.
        config: the section `contrast` of the configuration.

    Returns:
        The scale of the logits. A learnable one is kept at or below 100, as in CLIP (Radford et al. 2021, section 2.5).
    """
    if not config.learnable_temperature:
        return jnp.asarray(1.0 / config.temperature, jnp.float32)
    return jnp.minimum(jnp.exp(params["logit_scale"]), 100.0)


def direction_metrics(directions: dict[str, contrastive.InfoNCE], batch: int) -> Metrics:
    """Computes losses and accuracies per pair of the whole batch.

    Args:
        directions: the sums of each direction by name, over a micro-batch or the whole batch.
        batch: the number of pairs in the whole batch.

    Returns:
        `loss`, loss and accuracy of each direction, and `masked_negatives` per query and direction.
    """
    losses = {f"loss_{name}": direction.loss / batch for name, direction in directions.items()}
    accuracies = {f"accuracy_{name}": direction.correct / batch for name, direction in directions.items()}
    masked = sum(direction.masked for direction in directions.values()) / (len(directions) * batch)
    return {
        "loss": jnp.asarray(sum(losses.values())),
        **losses,
        **accuracies,
        "masked_negatives": jnp.asarray(masked),
    }
