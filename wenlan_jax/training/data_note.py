"""Which files a run is trained on, noted in its work directory, so that data that were made anew are noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wenlan_jax.data import sources
from wenlan_jax.tasks import experiment, shared_data
from wenlan_jax.util import atomic_files, json_files

FILE = "data.json"
"""In the work directory: name, size and digest of every file of records of every source."""


def check(config: experiment.Config, workdir: Path) -> None:
    """Checks that the sources have the files that they had when the run began, unless changes are accepted.

    A run that goes on with other pairs under the old name repeats some and never sees others, and a split that was
    held out before may be trained on.

    Args:
        config: the configuration.
        workdir: the work directory of the run.

    Raises:
        ConfigError: if a source has other files.
    """
    changed = differing(config, workdir)
    if changed and not config.checkpoint.accept_changes:
        raise experiment.ConfigError(
            f"{', '.join(changed)}: not the data that this run began with, though of the same name (packed or built "
            "anew). Use another --workdir, or --config.checkpoint.accept_changes=true to go on with them"
        )


def differing(config: experiment.Config, workdir: Path) -> list[str]:
    """Lists the sources that have other files than when the run began.

    Args:
        config: the configuration.
        workdir: the work directory of the run.

    Returns:
        Their names; none where the files of the start are not known.
    """
    try:
        before = json_files.read_if_any(workdir / FILE, dict[str, Any])
    except json_files.NoteError:
        return []
    now = _files(config)
    known = before or {}
    return [name for name in now if name in known and sources.of_records(known[name]) != now[name]]


def keep(config: experiment.Config, workdir: Path) -> None:
    """Notes the files that the run is trained on; sources that it was trained on before stay noted.

    Args:
        config: the configuration.
        workdir: the work directory of the run.
    """
    try:
        before = json_files.read_if_any(workdir / FILE, dict[str, Any]) or {}
    except json_files.NoteError:
        before = {}
    atomic_files.write_json(workdir / FILE, {**before, **_files(config)})


def _files(config: experiment.Config) -> dict[str, list[list[object]]]:
    """Name, size and digest of the files of each source; the time of change differs from copy to copy."""
    names = dict.fromkeys([config.data.source, *(part.source for part in shared_data.parts(config.data))])
    data_dir = Path(config.data.dir).expanduser()
    return {name: sources.contents(name, data_dir) for name in names}
