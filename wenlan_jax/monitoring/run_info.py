"""What a run is and where it runs, noted when it starts: `start.json` in the work directory, of its newest start.

A checkpoint holds the configuration, too, but the first one comes late, and none says on which machines and with which
libraries. Reading needs no jax.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wenlan_jax import __version__
from wenlan_jax.tasks import experiment
from wenlan_jax.util import atomic_files, json_files

NAME = "start.json"

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "tensorflow-datasets")
"""Whose versions are noted."""


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """One start of a run.

    Attributes:
        version: of wenlan_jax.
        command: as it was typed.
        host: the machine of process 0.
        system: its operating system.
        python: the version of Python.
        versions: by library, those that are installed.
        processes: of the job.
        backend: jax's, such as gpu.
        device: the kind of its devices.
        devices: their number in the job.
        fingerprint: of the whole configuration.
        config: the whole configuration.
    """

    version: str
    command: tuple[str, ...]
    host: str
    system: str
    python: str
    versions: Mapping[str, str]
    processes: int
    backend: str
    device: str
    devices: int
    fingerprint: str
    config: Mapping[str, Any]


def write(workdir: Path, config: experiment.Config) -> None:
    """Notes this start; process 0 alone calls it, and the file appears whole.

    Args:
        workdir: the work directory of the run.
        config: its configuration.
    """
    import jax

    note = RunInfo(
        version=__version__,
        command=tuple(sys.argv),
        host=platform.node(),
        system=platform.platform(),
        python=platform.python_version(),
        versions=_versions(),
        processes=jax.process_count(),
        backend=jax.default_backend(),
        device=jax.devices()[0].device_kind,
        devices=jax.device_count(),
        fingerprint=experiment.fingerprint(config),
        config=json.loads(experiment.to_json(config)),
    )
    atomic_files.write_json(workdir / NAME, dataclasses.asdict(note))


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read(workdir: Path) -> RunInfo | None:
    """Reads the note of the newest start.

    Args:
        workdir: the work directory of the run.

    Returns:
        The note; None where there is none.

    Raises:
        NoteError: for a file that is no such note.
    """
    try:
        note = json_files.read_if_any(workdir / NAME, RunInfo)
    except json_files.NoteError as error:
        raise json_files.NoteError(f"{NAME} is not the note of a start ({error})") from error
    if note is not None and note.fingerprint != experiment.fingerprint_of(note.config):
        raise json_files.NoteError(f"{workdir / NAME}: its fingerprint is not that of its configuration")
    return note
