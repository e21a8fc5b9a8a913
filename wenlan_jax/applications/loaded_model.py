"""Trained models for the commands that need more than `wenlan eval`: of the right kind, read, with their tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import PyTree

from wenlan_jax.checkpoints.store import CheckpointError
from wenlan_jax.core import trees
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks import registry
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import restore as restore

SECTIONS = ("data.", "eval.", "mesh.")
"""Fields that may differ from those of the training run."""


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model on its devices.

    Attributes:
        run: configuration, mesh, shapes and shardings.
        tokenizer: of its training.
        params: parameters by tower.
        batch_stats: running statistics by tower.
        step: the number of the checkpoint.
    """

    run: Run
    tokenizer: Tokenizer
    params: PyTree
    batch_stats: PyTree
    step: int


@dataclasses.dataclass(frozen=True)
class ModelPlace:
    """Where a model is.

    Attributes:
        option: what the command calls its directory.
        workdir: the directory.
        step: the checkpoint; None for the newest.
    """

    option: str
    workdir: Path
    step: int | None


def find(place: ModelPlace, fields: Sequence[str], model: str) -> restore.Trained:
    """Opens a checkpoint; its arrays are not read yet.

    Args:
        place: where it is.
        fields: `--config.field=value` each, of `SECTIONS`.
        model: the kind of model that is needed, such as `two towers`.

    Returns:
        The checkpoint.

    Raises:
        TaskError: unless it is of that kind.
        CheckpointError: where there is none, or it has no tokenizer.
    """
    trained = restore.load(place.workdir, place.step, fields, SECTIONS)
    task = registry.of(trained.config)
    if task.model != model:
        raise registry.TaskError(
            f"{place.option}: {place.workdir} is {task.model} of task {task.name!r}, and {model} "
            f"{'is' if model.startswith('a ') else 'are'} needed: of task "
            + " or ".join(map(repr, registry.of_model(model)))
        )
    if trained.tokenizer is None:
        raise CheckpointError(
            f"{place.option}: {place.workdir} was imported without a tokenizer; import again with "
            "--config.tokenizer.path"
        )
    return trained


def read(place: ModelPlace, trained: restore.Trained) -> LoadedModel:
    """Reads the arrays of a checkpoint onto the devices.

    Args:
        place: where it was found.
        trained: what `find` gave.

    Returns:
        The model.
    """
    assert trained.tokenizer is not None  # `find` has looked
    state = trained.read("params", "batch_stats")
    size = trees.size(state["params"])
    say(f"checkpoint {trained.step} of {place.workdir}: {trained.current.config.task}, {size:,} parameters")
    return LoadedModel(trained.current, trained.tokenizer, state["params"], state["batch_stats"], trained.step)
