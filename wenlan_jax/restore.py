"""A trained model from its work directory: configuration, tokenizer and towers, on the mesh of whoever asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import config_dict

from wenlan_jax import checkpoint, run, schema, train
from wenlan_jax import config as configs
from wenlan_jax.data.text import Tokenizer


@dataclasses.dataclass(frozen=True)
class Trained:
    """The towers of a checkpoint. `parts` has those of `params`, `batch_stats` and `momentum` that were asked for."""

    current: run.Run
    tokenizer: Tokenizer
    step: int
    parts: dict[str, Any]


def settings(saved: dict[str, object], overrides: Sequence[str], sections: Sequence[str]) -> schema.Config:
    """The saved configuration with overrides, which may only concern `sections` (such as `data.`)."""
    outside = [field for field in overrides if not field.removeprefix("--config.").startswith(tuple(sections))]
    if outside:
        raise configs.ConfigError(f"{outside[0]}: only fields of {', '.join(sections)} can be set here")
    # Through `parse`, as JSON has no tuples and ml_collections overrides no lists.
    whole = configs.parse(configs.completed(saved))
    return configs.override(config_dict.ConfigDict(dataclasses.asdict(whole)), overrides)


def load(
    workdir: Path,
    step: int | None,
    overrides: Sequence[str],
    sections: Sequence[str],
    wanted: Sequence[str],
    devices: Sequence[jax.Device] | None = None,
) -> Trained:
    """Checkpoint `step` (the newest by default) of a training run.

    `devices` are all by default. `wanted` names parts of the train state; a part that the task does not have is None.
    Raises CheckpointError if there is no such checkpoint.
    """
    place = workdir / "checkpoints"
    if not place.is_dir():
        raise checkpoint.CheckpointError(f"{workdir}: holds no checkpoints; is it the --workdir of a training run?")
    with checkpoint.Checkpoints(place, schema.Checkpoint()) as checkpoints:
        at, note = checkpoints.note(step)
        config = settings(note.config, overrides, sections)
        tokenizer = train.prepare_tokenizer(config, workdir)
        current = run.set_up(config, devices)
        shapes = {part: getattr(current.shapes, part) for part in wanted}
        places = {part: getattr(current.shardings, part) for part in wanted}
        _, parts = checkpoints.restore(checkpoint.abstract_of(shapes, places), at)
    return Trained(current, tokenizer, at, parts)
