"""The TFDS data set `wenlan_scenes`: its sizes, and building it once and only once. Needs no TensorFlow.

After importing this module, `tfds.builder("wenlan_scenes/s64", data_dir=...)` works as for any other data set. A
change of anything that `compose` gives for a scene asks for a new `VERSION`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from wenlan_jax.data.records import features, to_example
from wenlan_jax.data.scenes.compose import SOURCE, compose
from wenlan_jax.data.scenes.world import CLOSE, WIDE, Framing, SceneError

SEED = 2021
"""Seed of all scenes; part of what `VERSION` stands for."""

_PROGRESS_SECONDS = 5.0


@dataclasses.dataclass(eq=False, kw_only=True)
class ScenesConfig(tfds.core.BuilderConfig):
    """A size of the data set: `side` in pixels, how scenes are framed, and the number of scenes per split."""

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


class WenlanScenes(tfds.core.GeneratorBasedBuilder):
    """Procedural pictures with descriptive and weak texts, boxes and questions in seven languages."""

    name = SOURCE
    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "First version.",
        "1.1.0": "close64 in place of pairs64.",
    }
    BUILDER_CONFIGS: ClassVar[list[ScenesConfig]] = list(CONFIGS.values())
    url_infos: ClassVar[dict[str, Any]] = {}  # nothing to download; TFDS would look for a checksums file

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"file_format": "array_record"} | options))

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=features(),
            disable_shuffling=True,  # so that row i of a split is its scene i
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(split) for split in self.builder_config.counts}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        count, told = config.counts[split], time.monotonic()
        for index in range(count):
            if time.monotonic() - told > _PROGRESS_SECONDS:
                told = time.monotonic()
                _say(f"{SOURCE}/{config.name}: {split} {index} of {count}")
            yield index, to_example(compose(SEED, split, index, config.side, config.framing))


def build(name: str, data_dir: Path) -> Path:
    """The version directory of `name` (as `wenlan_scenes/s64`) below `data_dir`, built first where it is absent.

    Safe when several processes of a machine ask at once, and after a build that was killed. Raises `SceneError`
    for an unknown name, or a directory that cannot be written or is full.
    """
    config = name.removeprefix(f"{SOURCE}/")
    if config not in CONFIGS or name == config:
        known = ", ".join(f"{SOURCE}/{other}" for other in CONFIGS)
        raise SceneError(f"unknown data set {name!r}: choose one of {known}")
    folder = Path(data_dir) / SOURCE / config / str(WenlanScenes.VERSION)
    if _finished(folder):
        return folder
    try:
        with _lock(Path(data_dir) / f".{SOURCE}-{config}.lock"):
            if not _finished(folder):
                _build(config, Path(data_dir), folder)
    except OSError as error:
        remedy = "name a data directory that can be written and has room"
        raise SceneError(f"cannot build {name} in {data_dir}: {error}; {remedy}") from error
    return folder


def _finished(folder: Path) -> bool:
    """TFDS moves a finished data set into place at once; this file is among the last it writes."""
    return (folder / "dataset_info.json").is_file()


def _build(config: str, data_dir: Path, folder: Path) -> None:
    _remove_remains(folder)
    started = time.monotonic()
    _say(f"building {SOURCE}/{config} in {folder} (once)")
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as downloads:
            builder = WenlanScenes(config=config, data_dir=data_dir)
            builder.download_and_prepare(download_dir=downloads)  # TFDS wants a folder even for no download
    finally:
        tfds.enable_progress_bar()
    _say(f"built {SOURCE}/{config}: {time.monotonic() - started:.0f} s")


def _remove_remains(folder: Path) -> None:
    """Removes what an interrupted build or copy has left; call it under the lock."""
    for remains in [folder, *folder.parent.glob(f"incomplete.*_{folder.name}")]:
        if remains.is_dir():
            _say(f"removing {remains}, left by an unfinished build")
            shutil.rmtree(remains)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path`, which the system releases when the process ends in whatever way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
