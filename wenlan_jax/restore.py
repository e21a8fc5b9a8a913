"""A trained model from its work directory: configuration, tokenizer and towers, on the mesh of whoever asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import config_dict

from wenlan_jax import checkpoint, run, run_answers, run_tokenizer, schema
from wenlan_jax import config as configs
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.state import MOMENTUM, TrainState


@dataclasses.dataclass(frozen=True)
class Trained:
    """A checkpoint and all that is needed to use it; its arrays are read when they are asked for.

    tokenizer: None for an import that was configured without one.
    """

    checkpoints: checkpoint.Checkpoints
    current: run.Run
    tokenizer: Tokenizer | None
    step: int

    def read(self, *parts: str) -> dict[str, Any]:
        """Parts of the train state by name, such as `params`, where the mesh has them."""
        shapes = {part: getattr(self.current.shapes, part) for part in parts}
        return self._restore(shapes, {part: getattr(self.current.shardings, part) for part in parts})

    def tower(self, name: str) -> dict[str, Any]:
        """`params` and, where the tower has some, `batch_stats` of `image`, `text` or a `_momentum` copy."""
        kind = name.removesuffix(MOMENTUM)

        def of(state: TrainState) -> dict[str, Any]:
            owner = state if kind == name else state.momentum
            collections = {"params": owner.params, "batch_stats": owner.batch_stats}  # type: ignore[union-attr]
            found = {collection: {kind: tree[kind]} for collection, tree in collections.items() if kind in tree}
            return found if kind == name else {"momentum": found}

        found = self._restore(of(self.current.shapes), of(self.current.shardings))
        return {collection: tree[kind] for collection, tree in found.get("momentum", found).items()}

    def _restore(self, shapes: dict[str, Any], places: dict[str, Any]) -> dict[str, Any]:
        return self.checkpoints.restore(checkpoint.abstract_of(shapes, places), self.step)[1]


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
    devices: Sequence[jax.Device] | None = None,
) -> Trained:
    """Checkpoint `step` (the newest by default) of a training run or an import, on `devices` (all by default).

    Raises CheckpointError if there is no such checkpoint.
    """
    place = workdir / "checkpoints"
    if not place.is_dir():
        raise checkpoint.CheckpointError(f"{workdir}: holds no checkpoints; is it the --workdir of a training run?")
    checkpoints = checkpoint.Checkpoints(place, schema.Checkpoint())
    at, note = checkpoints.note(step)
    config = run_answers.settled(settings(note.config, overrides, sections), workdir)
    return Trained(checkpoints, run.set_up(config, devices), run_tokenizer.saved(config, workdir), at)
