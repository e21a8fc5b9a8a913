"""Building one TFDS data set below a data directory: once, under a lock, whole or not at all. Needs no TensorFlow."""

from __future__ import annotations

import contextlib
import fcntl
import io
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from wenlan_jax.data import records
from wenlan_jax.util import progress_line
from wenlan_jax.util.errors import WenlanError
from wenlan_jax.util.progress_line import say


class BuildError(WenlanError, ValueError):
    """A data set that cannot be built; the message says what is missing and where to get it."""


class RecordBuilder(tfds.core.GeneratorBasedBuilder):
    """What the builders of this package share: the record schema, and a format that works without TensorFlow.

    A subclass gives VERSION, MANUAL_DOWNLOAD_INSTRUCTIONS, `_split_generators` and `described`.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar[dict[str, Any]] = {}  # nothing that TFDS downloads; it would look for a checksums file

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"file_format": "array_record"} | options))

    def described(self) -> dict[str, str]:
        """Gives `description`, `homepage`, `license` and `citation` of the data, as far as they are known."""
        raise NotImplementedError

    def remarks(self) -> list[str]:
        """Lists what a user should know of the finished data, e.g. that a split is smaller than published."""
        return []

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=records.features(),
            disable_shuffling=True,  # rows keep the order of the published files
            metadata=tfds.core.MetadataDict(),
            **self.described(),
        )

    def _generate_examples(
        self, examples: Iterator[records.Record], split: str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Numbers the records of a split as TFDS wants them, with a line of progress now and then."""
        beat, row = progress_line.ProgressLine(), -1
        for row, record in enumerate(examples):
            if beat.due():
                say(f"{self.info.full_name}: {split} {row}")
            yield row, records.to_example(record)
        if row < 0:
            raise BuildError(f"{self.info.full_name}: no record for split {split!r}; {self._why_empty()}")

    def _why_empty(self) -> str:
        return "check the files that it is built from"


def version_folder(kind: type[RecordBuilder], config: str, data_dir: Path) -> Path:
    """Says where a data set lies when it is built.

    Args:
        kind: its builder.
        config: its configuration; "" for none.
        data_dir: where data sets lie.

    Returns:
        The folder of its version.
    """
    return Path(data_dir).joinpath(*filter(None, [kind.name, config, str(kind.VERSION)]))


def is_built(folder: Path) -> bool:
    """Says whether a folder holds a finished data set.

    TFDS moves one into place at once; the file looked for is among the last it writes.
    """
    return (folder / "dataset_info.json").is_file()


def build(kind: type[RecordBuilder], config: str, data_dir: Path, manual_dir: Path | None) -> Path:
    """Builds a data set unless it is there.

    Safe when several processes of a machine ask at once, and after a build that was killed.

    Args:
        kind: its builder.
        config: its configuration; "" for none.
        data_dir: where data sets lie.
        manual_dir: the folder of the files it is built from, if it needs any.

    Returns:
        Its folder.

    Raises:
        BuildError: if it cannot be built; errors of the readers name the file.
    """
    folder = version_folder(kind, config, data_dir)
    name = "/".join(filter(None, [kind.name, config]))
    try:
        with _lock(Path(data_dir) / f".{name.replace('/', '-')}.lock"):
            if not is_built(folder):
                _build(name, kind(config=config or None, data_dir=data_dir), folder, manual_dir)
    except OSError as error:
        remedy = "name a data directory that can be written and has room"
        raise BuildError(f"cannot build {name} in {data_dir}: {error}; {remedy}") from error
    return folder


def _build(name: str, builder: RecordBuilder, folder: Path, manual_dir: Path | None) -> None:
    _remove_remains(folder)
    started = time.monotonic()
    say(f"building {name} in {folder} (once)")
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as downloads:
            wanted = tfds.download.DownloadConfig(manual_dir=manual_dir)
            builder.download_and_prepare(download_dir=downloads, download_config=wanted)
    finally:
        tfds.enable_progress_bar()
    for remark in builder.remarks():
        say(remark)
    say(f"built {name}: {time.monotonic() - started:.0f} s")


def _remove_remains(folder: Path) -> None:
    """Removes what an interrupted build or copy has left; call it under the lock."""
    for remains in [folder, *folder.parent.glob(f"incomplete.*_{folder.name}")]:
        if remains.is_dir():
            say(f"removing {remains}, left by an unfinished build")
            shutil.rmtree(remains)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path`, which the system releases when the process ends in whatever way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
