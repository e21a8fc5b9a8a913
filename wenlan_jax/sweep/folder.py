"""The directory of one run: the work directory of `wenlan train`, with the sweep's own notes in it.

Beside what the training writes there are run.json, for a reader; config.json, the whole configuration, and config.py,
which reads it; train.log, what the command printed; failure.json while the last try has failed; and the claim.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wenlan_jax.monitoring import run_info, time_ledger
from wenlan_jax.sweep import claims
from wenlan_jax.sweep.plan import SweepRun
from wenlan_jax.tasks import config_changes, experiment
from wenlan_jax.util import atomic_files, json_files

DONE, RUNNING, FAILED, HALF, NOT_RUN = "done", "running", "failed", "half done", "not run"
OTHER = "of another configuration"
"""Where a run stands. Only DONE has a result; every other state is shown in its place."""

LOG_LINES = 12
"""Last lines of the log of a failed run that are shown."""

CONFIG = '''\
"""The configuration of one run of a sweep, read from config.json beside this file."""

import dataclasses
import json
from pathlib import Path

from ml_collections import config_dict

from wenlan_jax import config


def get_config():
    """The saved configuration; fields that came later have their defaults."""
    saved = json.loads(Path(__file__).with_name("config.json").read_text())
    return config_dict.ConfigDict(dataclasses.asdict(config.parse(config.completed(saved))))
'''


@dataclasses.dataclass(frozen=True)
class RunState:
    """Where a run stands.

    Attributes:
        kind: `DONE`, `RUNNING`, `FAILED`, `HALF`, `NOT_RUN` or `OTHER`.
        detail: what there is to say of it.
    """

    kind: str
    detail: str = ""

    def text(self) -> str:
        """Writes the state for a person."""
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The directory of a run.

    Attributes:
        path: the directory.
        run: the run.
    """

    path: Path
    run: SweepRun

    @property
    def log(self) -> Path:
        """The file of what the training command printed, over all its starts."""
        return self.path / "train.log"

    @property
    def claim(self) -> Path:
        """The file that is there while somebody works on the run."""
        return self.path / "claim"

    def command(self, wenlan: Sequence[str] = ("wenlan",)) -> list[str]:
        """Returns the training command, which also continues what it began."""
        return [*wenlan, "train", f"--config={self.path / 'config.py'}", f"--workdir={self.path}"]

    def prepare(self) -> None:
        """Writes what the training command needs, and what a reader wants to know; takes back an earlier failure."""
        self._make_way()
        if not self._has_config():
            _write(self.path / "config.json", experiment.to_json(self.run.config) + "\n")
        _write(self.path / "config.py", CONFIG)
        note = {
            "places": [dataclasses.asdict(place) for place in self.run.places],
            "base": str(self.run.base),
            "overrides": dict(self.run.overrides),
            "fingerprint": self.run.name,
            "command": shlex.join(self.command()),
        }
        atomic_files.write_json(self.path / "run.json", note, shared=True)
        (self.path / "failure.json").unlink(missing_ok=True)

    def _make_way(self) -> None:
        """Renames what stands in the place of files of the sweep and of the training."""
        for name in ("config.json", "config.py", "run.json", "failure.json", "train.log", *_READERS):
            json_files.make_way(self.path / name)

    def _has_config(self) -> bool:
        """Whether config.json holds the configuration of the run, which an older version may have written."""
        try:
            saved = json_files.read(self.path / "config.json", dict[str, Any])
            return experiment.fingerprint(experiment.parse(config_changes.completed(saved))) == self.run.name
        except (json_files.NoteError, experiment.ConfigError):
            return False

    def fail(self, reason: str) -> None:
        """Notes that the training command ended without a result."""
        note = {"reason": reason, "host": claims.HOST, "id": uuid.uuid4().hex}
        atomic_files.write_json(self.path / "failure.json", note, shared=True)

    def failure(self) -> dict[str, str] | None:
        """Reads the note of the last try, if it failed; its `id` differs from try to try."""
        try:
            return json_files.read_if_any(self.path / "failure.json", dict[str, str])
        except json_files.NoteError as error:
            return {"reason": str(error), "host": "?", "id": "damaged"}

    def result(self) -> dict[str, float] | None:
        """Reads what the finished run measured.

        Returns:
            The figures by name; None until its last step, its evaluation and its pages are all there. Also None where
            what is there is damaged, which `faults` tells, or of another configuration.
        """
        if not (self.path / "result.json").exists() or self.faults() or self.differing():
            return None
        result, lines = json_files.read_figures(self.path / "result.json"), time_ledger.read(self.path / "ledger.jsonl")
        finished = bool(lines) and lines[-1].state == time_ledger.FINISHED
        return result if finished and result.get("train/steps") == self._steps() else None

    def _steps(self) -> int | None:
        """Those of the whole run; where the configuration counts epochs, as its newest start has worked them out."""
        if not self.run.config.train.epochs:
            return self.run.config.train.steps
        try:
            start = run_info.read(self.path)
            steps = None if start is None else start.config["train"]["steps"]
        except (json_files.NoteError, KeyError, TypeError):
            return None
        return steps if isinstance(steps, int) else None

    def differing(self) -> list[str]:
        """Lists what the newest start in this directory was trained with instead of the directory's configuration."""
        try:
            start = run_info.read(self.path)
            if start is not None:
                return config_changes.changes_of_start(start.config, self.run.config)
            saved = json_files.read_if_any(self.path / "config.json", dict[str, Any])
        except json_files.NoteError:  # a start writes it anew
            return []
        return [] if saved is None else config_changes.changes_of_start(saved, self.run.config)

    def faults(self) -> list[str]:
        """Lists what is wrong with the files of this directory that tell where the run stands."""
        found = []
        for name, read in _READERS.items():
            try:
                read(self.path / name)
            except json_files.NoteError as error:
                found.append(str(error))
        return found

    def state(self) -> RunState:
        """Says where the run stands now."""
        if self.result() is not None:
            return RunState(DONE)
        if differing := self.differing():
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            return RunState(OTHER, f"{differing[0]}{more}; remove {self.path}, or choose another --out")
        holder = claims.holder(self.claim)
        if holder is not None:
            return RunState(RUNNING, f"on {holder}")
        failure = self.failure()
        if failure is not None:
            return RunState(FAILED, f"{failure.get('reason', '')}; {self.log}")
        if faults := self.faults():
            return RunState(HALF, "; ".join(faults))
        lines = time_ledger.read(self.path / "ledger.jsonl")
        if lines:
            return RunState(HALF, f"step {lines[-1].done} of {self._steps() or 'its last'}")
        return RunState(NOT_RUN)

    def log_tail(self) -> str:
        """Returns the last lines of the log."""
        if not self.log.exists():
            return ""
        try:
            said = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return f"{self.log}: {error.strerror}"
        return "\n".join(said.rstrip().splitlines()[-LOG_LINES:])


_READERS: dict[str, Callable[[Path], object]] = {
    "result.json": lambda path: json_files.read_figures(path) if path.exists() else None,
    "ledger.jsonl": time_ledger.read,
    run_info.NAME: lambda path: run_info.read(path.parent),
}
"""Of the files that tell where a run stands; each raises NoteError for a damaged one."""


class RunStore:
    """The runs of one `--out` directory, which several machines may share.

    Args:
        out: the directory.
    """

    def __init__(self, out: Path) -> None:
        self.runs = out / "runs"
        self._older = _older_names(self.runs)

    def folder(self, run: SweepRun) -> RunFolder:
        """Finds the directory of a run, which need not exist.

        A run made when the configuration had fewer fields has an older name: it is used if the fields that came later
        have their defaults, which keep what was before them.

        Args:
            run: the run.

        Returns:
            Its directory.
        """
        name = run.name if (self.runs / run.name).exists() else self._older.get(run.name, run.name)
        return RunFolder(self.runs / name, run)


def _older_names(runs: Path) -> dict[str, str]:
    """Names of directories by the name that their configuration has today, where the two differ."""
    found = {}
    for path in sorted(runs.glob("*/config.json")):
        try:
            saved = json_files.read(path, dict[str, Any])
            today = experiment.fingerprint(experiment.parse(config_changes.completed(saved)))
        except (json_files.NoteError, experiment.ConfigError):  # damaged, or a field has gone since: no run of today
            continue
        if today != path.parent.name:
            found[today] = path.parent.name
    return found


def wenlan_command() -> list[str]:
    """Returns the command line of this installation: the script beside the interpreter, or the module."""
    script = Path(sys.executable).with_name("wenlan")
    return [str(script)] if script.exists() else [sys.executable, "-m", "wenlan_jax.cli"]


def _write(path: Path, text: str) -> None:
    """Writes a file that appears whole, also to other machines."""
    atomic_files.write(path, text.encode("utf-8"), shared=True)
