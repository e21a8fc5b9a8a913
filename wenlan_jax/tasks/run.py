"""A run: a configuration with its mesh, its recipe, and the shapes and places of its train state."""

from __future__ import annotations

import dataclasses

from jax.sharding import Mesh

from wenlan_jax.core import step
from wenlan_jax.core.state import TrainState
from wenlan_jax.tasks.schema import Config


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration made concrete.

    Attributes:
        config: the configuration, with everything settled that depends on the data.
        mesh: the devices.
        recipe: what the step needs besides state and batch.
        shapes: the train state with shapes in place of arrays.
        shardings: the train state with shardings in place of arrays.
    """

    config: Config
    mesh: Mesh
    recipe: step.StepRecipe
    shapes: TrainState
    shardings: TrainState
