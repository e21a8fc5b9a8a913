"""What a run is and where it runs, noted when it starts: `start.json` in the work directory, of its newest start.

A checkpoint holds the configuration, too, but the first one comes late, and none says on which machines and with which
libraries. Reading needs no jax.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wenlan_jax import __version__, schema
from wenlan_jax import config as configs

NAME = "start.json"

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "tensorflow-datasets")
"""Whose versions are noted."""


@dataclasses.dataclass(frozen=True)
class StartNote:
    """One start of a run.

    command: as it was typed. host: of process 0 among `processes`. backend: jax's, such as gpu; device: its kind.
    fingerprint, config: of the whole configuration. versions: by library, those that are installed.
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


def write(workdir: Path, config: schema.Config) -> None:
    """Notes this start; process 0 alone calls it, and the file appears whole."""
    import jax

    note = StartNote(
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
        fingerprint=configs.fingerprint(config),
        config=json.loads(configs.to_json(config)),
    )
    fresh = workdir / f"{NAME}.tmp"
    fresh.write_text(json.dumps(dataclasses.asdict(note), indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, workdir / NAME)


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read(workdir: Path) -> StartNote | None:
    """The note of the newest start; None where there is none. Raises ValueError for a file that is no such note."""
    place = workdir / NAME
    if not place.exists():
        return None
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        return StartNote(**{**found, "command": tuple(found["command"])})
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{NAME} is not the note of a start ({error})") from error
