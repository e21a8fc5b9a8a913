"""The directory of one run: the work directory of `wenlan train`, with the sweep's own notes in it.

Beside what the training writes there are run.json, for a reader; config.json, the whole configuration, and config.py,
which reads it; train.log, what the command printed; failure.json while the last try has failed; and the claim.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wenlan_jax import config as configs
from wenlan_jax import ledger
from wenlan_jax.sweep import claims
from wenlan_jax.sweep.plan import Run

DONE, RUNNING, FAILED, HALF, NOT_RUN = "done", "running", "failed", "half done", "not run"
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
class State:
    """Where a run stands, and what there is to say of it."""

    kind: str
    detail: str = ""

    def text(self) -> str:
        """The state for a person."""
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


@dataclasses.dataclass(frozen=True)
class Folder:
    """The directory of `run`."""

    path: Path
    run: Run

    @property
    def log(self) -> Path:
        """What the training command printed, over all its starts."""
        return self.path / "train.log"

    @property
    def claim(self) -> Path:
        """There while somebody works on the run."""
        return self.path / "claim"

    def command(self, wenlan: Sequence[str] = ("wenlan",)) -> list[str]:
        """The training command, which also continues what it began."""
        return [*wenlan, "train", f"--config={self.path / 'config.py'}", f"--workdir={self.path}"]

    def prepare(self) -> None:
        """Writes what the training command needs, and what a reader wants to know; takes back an earlier failure."""
        if not (self.path / "config.json").exists():
            _write(self.path / "config.json", configs.to_json(self.run.config) + "\n")
        _write(self.path / "config.py", CONFIG)
        note = {
            "places": [dataclasses.asdict(place) for place in self.run.places],
            "base": str(self.run.base),
            "overrides": dict(self.run.overrides),
            "fingerprint": self.run.name,
            "command": shlex.join(self.command()),
        }
        _write(self.path / "run.json", json.dumps(note, indent=1, ensure_ascii=False) + "\n")
        (self.path / "failure.json").unlink(missing_ok=True)

    def fail(self, reason: str) -> None:
        """Notes that the training command ended without a result."""
        note = {"reason": reason, "host": claims.HOST, "id": uuid.uuid4().hex}
        _write(self.path / "failure.json", json.dumps(note) + "\n")

    def failure(self) -> dict[str, str] | None:
        """The note of the last try, if it failed; its `id` differs from try to try."""
        note = _read(self.path / "failure.json")
        return None if note is None else {name: str(value) for name, value in note.items()}

    def result(self) -> dict[str, float] | None:
        """What the finished run measured; None until its last step, its evaluation and its pages are all there."""
        result = _read(self.path / "result.json")
        if result is None or result.get("train/steps") != self.run.config.train.steps:
            return None
        lines = ledger.read(self.path / "ledger.jsonl")
        return result if lines and lines[-1].state == ledger.FINISHED else None

    def state(self) -> State:
        """Where the run stands now."""
        if self.result() is not None:
            return State(DONE)
        holder = claims.holder(self.claim)
        if holder is not None:
            return State(RUNNING, f"on {holder}")
        failure = self.failure()
        if failure is not None:
            return State(FAILED, f"{failure.get('reason', '')}; {self.log}")
        lines = ledger.read(self.path / "ledger.jsonl")
        if lines:
            return State(HALF, f"step {lines[-1].done} of {self.run.config.train.steps}")
        return State(NOT_RUN)

    def log_tail(self) -> str:
        """The last lines of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-LOG_LINES:])


class Store:
    """The runs of one `--out` directory, which several machines may share."""

    def __init__(self, out: Path) -> None:
        self.runs = out / "runs"
        self._older = _older_names(self.runs)

    def folder(self, run: Run) -> Folder:
        """The directory of `run`, which need not exist.

        A run made when the configuration had fewer fields has an older name: it is used if the fields that came later
        have their defaults, which keep what was before them.
        """
        name = run.name if (self.runs / run.name).exists() else self._older.get(run.name, run.name)
        return Folder(self.runs / name, run)


def _older_names(runs: Path) -> dict[str, str]:
    """Names of directories by the name that their configuration has today, where the two differ."""
    found = {}
    for path in sorted(runs.glob("*/config.json")):
        saved = _read(path)
        try:
            today = configs.fingerprint(configs.parse(configs.completed(saved or {})))
        except configs.ConfigError:  # a field has gone since: no run of today
            continue
        if saved is not None and today != path.parent.name:
            found[today] = path.parent.name
    return found


def wenlan_command() -> list[str]:
    """The command line of this installation: the script beside the interpreter, or the module."""
    script = Path(sys.executable).with_name("wenlan")
    return [str(script)] if script.exists() else [sys.executable, "-m", "wenlan_jax.cli"]


def _write(path: Path, text: str) -> None:
    """Writes a file that appears whole, also to other machines."""
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where it is missing or not whole."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return values if isinstance(values, dict) else None
