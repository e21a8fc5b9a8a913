"""A trained model from its work directory: configuration, tokenizer and towers, on the mesh of whoever asks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import config_dict

from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections as schema
from wenlan_jax.core.state import MOMENTUM
from wenlan_jax.data.text import Tokenizer
from wenlan_jax.tasks import config_changes, experiment
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import prepared, setup


@dataclasses.dataclass(frozen=True)
class Trained:
    """A checkpoint and all that is needed to use it; its arrays are read when they are asked for.

    Attributes:
        checkpoints: of the work directory.
        config: the configuration that it was trained with.
        devices: for `current`; None for all.
        tokenizer: None for an import that was configured without one.
        step: the number of the checkpoint.
    """

    checkpoints: store.Checkpoints
    config: experiment.Config
    devices: Sequence[jax.Device] | None
    tokenizer: Tokenizer | None
    step: int

    @functools.cached_property
    def current(self) -> Run:
        """The run that the checkpoint is of, which takes a second or more to trace."""
        return setup.set_up(self.config, self.devices)

    def read(self, *parts: str) -> dict[str, Any]:
        """Reads parts of the train state onto the mesh.

        Args:
            *parts: names of parts, such as `params`.

        Returns:
            The parts by name.
        """
        shapes = {part: getattr(self.current.shapes, part) for part in parts}
        return self._restore(shapes, {part: getattr(self.current.shardings, part) for part in parts})

    def tower(self, name: str) -> dict[str, Any]:
        """Reads a tower in NumPy. What is stored is read, whatever the configuration says.

        Args:
            name: `image`, `text`, `single`, or one of these with `_momentum` for its key encoder.

        Returns:
            `params` and, where the tower has some, `batch_stats`.

        Raises:
            CheckpointError: if there is no such tower.
        """
        return _nested(self.checkpoints.restore(store.on_host(self._stored(name)), self.step)[1], name)

    def shapes(self, name: str) -> dict[str, Any]:
        """Returns what `tower` gives, as shapes without values."""
        stored = self._stored(name)
        return _nested({p: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for p, leaf in stored.items()}, name)

    def has_momentum(self) -> bool:
        """Says whether key encoders are stored."""
        return any(path.startswith("momentum/") for path in self.checkpoints.stored(self.step)[1])

    def check(self) -> None:
        """Checks that all weights are stored as the configuration has them; this traces its model.

        Raises:
            CheckpointError: if they are not.
        """
        shapes = self.current.shapes
        self.checkpoints.check_leaves({"params": shapes.params, "batch_stats": shapes.batch_stats}, self.step)
        if self.has_momentum():
            self.checkpoints.check_leaves({"momentum": shapes.momentum}, self.step)

    def _stored(self, name: str) -> dict[str, Any]:
        """Shape and type of a tower's leaves by path. Raises CheckpointError if there are none."""
        _, stored = self.checkpoints.stored(self.step)
        found = {path: leaf for path, leaf in stored.items() if path.startswith(tuple(_places(name).values()))}
        if not found:
            raise store.CheckpointError(
                f"checkpoint {self.step} under {self.checkpoints.directory} has no tower {name!r}; import it too"
            )
        return found

    def _restore(self, shapes: dict[str, Any], places: dict[str, Any]) -> dict[str, Any]:
        return self.checkpoints.restore(store.abstract_of(shapes, places), self.step)[1]


def _places(name: str) -> dict[str, str]:
    """Where the train state has the collections of a tower."""
    kind = name.removesuffix(MOMENTUM)
    outer = "" if kind == name else "momentum/"
    return {collection: f"{outer}{collection}/{kind}/" for collection in ("params", "batch_stats")}


def _nested(leaves: dict[str, Any], name: str) -> dict[str, Any]:
    """The leaves of a tower by path, as a tree of each collection that it has."""
    return {
        collection: store.nested({path.removeprefix(place): leaves[path] for path in held})
        for collection, place in _places(name).items()
        if (held := [path for path in leaves if path.startswith(place)])
    }


def settings(saved: dict[str, object], overrides: Sequence[str], sections: Sequence[str]) -> experiment.Config:
    """Makes the configuration of a checkpoint, with overrides.

    Args:
        saved: the configuration that is stored beside the state.
        overrides: `--config.field=value` each.
        sections: the sections that they may concern, such as `data.`.

    Returns:
        The configuration.

    Raises:
        ConfigError: for an override of another section, or a wrong value.
    """
    outside = [field for field in overrides if not field.removeprefix("--config.").startswith(tuple(sections))]
    if outside:
        raise experiment.ConfigError(f"{outside[0]}: only fields of {', '.join(sections)} can be set here")
    # Through `parse`, as JSON has no tuples and ml_collections overrides no lists.
    whole = experiment.parse(config_changes.completed(saved))
    return experiment.override(config_dict.ConfigDict(dataclasses.asdict(whole)), overrides)


def load(
    workdir: Path,
    step: int | None,
    overrides: Sequence[str],
    sections: Sequence[str],
    devices: Sequence[jax.Device] | None = None,
) -> Trained:
    """Opens a checkpoint of a training run or an import.

    Args:
        workdir: the directory of the run or import.
        step: the number of the checkpoint; None for the newest.
        overrides: `--config.field=value` each.
        sections: the sections that they may concern, such as `data.`.
        devices: the devices to use; None for all.

    Returns:
        The checkpoint; no arrays are read yet.

    Raises:
        CheckpointError: if there is no such checkpoint, or its tokenizer's file is not the one it was trained with.
        ConfigError: for an override that cannot be used.
    """
    place = workdir / "checkpoints"
    if not place.is_dir():
        raise store.CheckpointError(f"{workdir}: holds no checkpoints; is it the --workdir of a training run?")
    checkpoints = store.Checkpoints(place, schema.CheckpointConfig())
    at, note = checkpoints.note(step)
    config, tokenizer = prepared.of_trained(settings(note.config, overrides, sections), workdir, note.tokenizer)
    return Trained(checkpoints, config, devices, tokenizer, at)
