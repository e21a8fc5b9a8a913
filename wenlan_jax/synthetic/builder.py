"""The TFDS data set `wenlan_scenes`: its sizes, and building it once and only once. Needs no TensorFlow.

After importing this module, `tfds.builder("wenlan_scenes/s64", data_dir=...)` works as for any other data set. A
change of anything that `compose` gives for a scene asks for a new `VERSION`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from wenlan_jax.data import tfds_builder
from wenlan_jax.data.records import Record
from wenlan_jax.data.tfds_builder import RecordBuilder
from wenlan_jax.synthetic.compose import SOURCE, compose
from wenlan_jax.synthetic.world import CLOSE, WIDE, Framing, SceneError

SEED = 2021
"""Seed of all scenes; part of what `VERSION` stands for."""


@dataclasses.dataclass(eq=False, kw_only=True)
class ScenesConfig(tfds.core.BuilderConfig):
    """A size of the data set.

    Attributes:
        side: in pixels.
        framing: how scenes are framed.
        counts: scenes by split.
    """

    side: int = 0
    framing: Framing = WIDE
    counts: dict[str, int] = dataclasses.field(default_factory=dict)


def _config(name: str, side: int, train: int, validation: int, test: int, framing: Framing = WIDE) -> ScenesConfig:
    counts = {"train": train, "validation": validation, "test": test}
    description = f"{side} x {side} pixels, {train} training scenes of one to {framing.most} things"
    return ScenesConfig(name=name, description=description, side=side, framing=framing, counts=counts)


CONFIGS = {
    config.name: config
    for config in (
        _config("tiny", 32, 64, 16, 16),
        _config("close64", 64, 6144, 256, 1000, CLOSE),  # of the quickstart: learnt in minutes
        _config("s64", 64, 6144, 256, 1000),
        _config("s128", 128, 32768, 1000, 1000),
    )
}


class WenlanScenes(RecordBuilder):
    """Procedural images with descriptive and weak texts, boxes and questions in seven languages."""

    name = SOURCE
    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "First version.",
        "1.1.0": "close64 in place of pairs64.",
    }
    BUILDER_CONFIGS: ClassVar[list[ScenesConfig]] = list(CONFIGS.values())

    def described(self) -> dict[str, str]:
        """Returns nothing but what it is: the data are made here."""
        return {"description": str(self.__doc__)}

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(self._scenes(split), split) for split in self.builder_config.counts}

    def _scenes(self, split: str) -> Iterator[Record]:
        config = self.builder_config
        for index in range(config.counts[split]):
            yield compose(SEED, split, index, config.side, config.framing)


def build(name: str, data_dir: Path) -> Path:
    """Builds a size of the data set where it is absent.

    Safe when several processes of a machine ask at once, and after a build that was killed.

    Args:
        name: such as `wenlan_scenes/s64`.
        data_dir: where data sets lie.

    Returns:
        Its version directory.

    Raises:
        SceneError: for an unknown name.
        BuildError: for a directory that cannot be written or is full.
    """
    config = name.removeprefix(f"{SOURCE}/")
    if config not in CONFIGS or name == config:
        known = ", ".join(f"{SOURCE}/{other}" for other in CONFIGS)
        raise SceneError(f"unknown data set {name!r}: choose one of {known}")
    return tfds_builder.build(WenlanScenes, config, data_dir, None)
