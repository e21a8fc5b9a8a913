"""Trained models for the commands that need more than `wenlan eval`: of the right kind, read, with their tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from jaxtyping import PyTree

from wenlan_jax import restore, trees
from wenlan_jax.checkpoint import CheckpointError
from wenlan_jax.console import say
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.errors import WenlanError
from wenlan_jax.tasks.run import Run

SECTIONS = ("data.", "eval.", "mesh.")
"""Fields that may differ from those of the training run."""


class TaskError(WenlanError, ValueError):
    """A model of another task than is needed."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model on its devices."""

    run: Run
    tokenizer: Tokenizer
    params: PyTree
    batch_stats: PyTree
    step: int


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a model is: what the command calls its directory, the directory, the checkpoint (None: the newest)."""

    option: str
    workdir: Path
    step: int | None


def find(place: Place, fields: Sequence[str], tasks: Collection[str], needed: str) -> restore.Trained:
    """The checkpoint with `fields` of `SECTIONS` set, not read yet.

    Raises TaskError unless its task is one of `tasks`, in words `needed`, and CheckpointError where there is none or
    it has no tokenizer.
    """
    trained = restore.load(place.workdir, place.step, fields, SECTIONS)
    task = trained.current.config.task
    if task not in tasks:
        raise TaskError(
            f"{place.option}: {place.workdir} is of task {task!r}, and {needed} is needed: of task "
            + " or ".join(map(repr, tasks))
        )
    if trained.tokenizer is None:
        raise CheckpointError(
            f"{place.option}: {place.workdir} was imported without a tokenizer; import again with "
            "--config.tokenizer.path"
        )
    return trained


def read(place: Place, trained: restore.Trained) -> Model:
    """The arrays of a checkpoint that was found at `place`, on the devices."""
    assert trained.tokenizer is not None  # `find` has looked
    state = trained.read("params", "batch_stats")
    size = trees.size(state["params"])
    say(f"checkpoint {trained.step} of {place.workdir}: {trained.current.config.task}, {size:,} parameters")
    return Model(trained.current, trained.tokenizer, state["params"], state["batch_stats"], trained.step)
