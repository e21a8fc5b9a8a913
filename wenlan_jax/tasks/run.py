"""A run: a configuration with its mesh, its recipe, and the shapes and places of its train state."""

from __future__ import annotations

import dataclasses

from jax.sharding import Mesh

from wenlan_jax.core import step
from wenlan_jax.core.state import TrainState
from wenlan_jax.tasks import experiment


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration made concrete. `shapes` and `shardings` have the structure of the train state."""

    config: experiment.Config
    mesh: Mesh
    recipe: step.Recipe
    shapes: TrainState
    shardings: TrainState
