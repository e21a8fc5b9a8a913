"""What the PyTorch reference of the single tower needs to take the same step, and our side of the comparison."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from wenlan_jax.bench.torch_worker import TorchError
from wenlan_jax.bench.torch_worker_single import SingleJob
from wenlan_jax.convert.single_layout import LAYOUTS, layout_of, torch_sizes
from wenlan_jax.core.state import TrainState
from wenlan_jax.models.single_tower import at_places
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.single_tower.spec import TOWER
from wenlan_jax.tasks.single_tower.task import SingleTowerTask


def check(config: experiment.Config) -> None:
    """Checks that the PyTorch reference can follow a configuration.

    Args:
        config: the configuration.

    Raises:
        TorchError: names the fields that it cannot follow.
    """
    single, optimizer = config.single, config.optimizer
    offsets = {layout.position_offset for layout in LAYOUTS.values()}
    faults = [
        fault
        for holds, fault in (
            ("mlm" in config.pretrain.objectives, "pretrain.objectives must hold 'mlm'"),
            (config.model.dtype == "float32", "model.dtype must be 'float32'"),
            (config.train.accumulation == 1, "train.accumulation must be 1"),
            (single.regions.features != "map", "single.regions.features must not be 'map'"),
            (single.position_offset in offsets, f"single.position_offset must be one of {sorted(offsets)}"),
            (not config.model.freeze, "model.freeze must be empty"),
            (optimizer.name == "adamw", "optimizer.name must be 'adamw'"),
        )
        if not holds
    ]
    if faults:
        raise TorchError("the PyTorch reference does not cover this configuration:\n  " + "\n  ".join(faults))


def job(config: experiment.Config, state: TrainState, batch: dict[str, np.ndarray]) -> SingleJob:
    """Makes what the reference is started with.

    Args:
        config: the configuration.
        state: gives the weights.
        batch: gives the examples.

    Returns:
        Sizes, weights, batch and options.
    """
    layout, optimizer = layout_of(config.single), config.optimizer
    tree = {TOWER: {"params": jax.tree.map(np.asarray, state.params[TOWER])}}
    labels = np.full(batch["token_ids"].shape, -1, np.int64)
    np.put_along_axis(labels, batch["masked_places"], batch["masked_ids"].astype(np.int64), axis=1)
    inputs = {
        "ids": batch["token_ids"].astype(np.int64),
        "token_mask": batch["token_mask"],
        "features": batch["region_features"].astype(np.float32),
        "boxes": batch["region_boxes"],
        "region_mask": batch["region_mask"],
        "masked": np.zeros(batch["region_mask"].shape, bool),
    }
    return SingleJob(
        sizes=torch_sizes(config, layout),
        weights=layout.table().to_torch(tree),
        inputs=inputs,
        labels=labels,
        places=batch["masked_places"].astype(np.int64),
        learning_rate=optimizer.learning_rate,
        betas=(optimizer.b1, optimizer.b2),
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
    )


def said(current: Run, state: TrainState, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Computes the pooled state and the logits of the words to guess, in evaluation mode."""
    task = current.recipe.task
    assert isinstance(task, SingleTowerTask)
    tower = task.tower

    def answers(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        hidden = tower.encode(params, batch, batch["region_features"], None)
        words = tower.call(params, "word_logits", at_places(hidden.text, batch["masked_places"]))
        return {"pooled": hidden.pooled, "words": words}

    found: dict[str, jax.Array] = jax.jit(answers)(state.params, batch)
    return found
