"""Jobs of two real processes, four simulated devices each, started by launch/local.sh."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

from repository import ROOT

LOCAL = ROOT / "launch" / "local.sh"


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that has ended: its status and the output of each process."""

    status: int
    logs: tuple[str, ...]
    said: str


def launch(logs: Path, *command: str, environment: dict[str, str] | None = None) -> Job:
    """Runs `command` in two processes of four devices."""
    options = ["2", "--devices-per-process", "4", "--logs", str(logs), "--grace", "30", "--"]
    done = subprocess.run(
        ["bash", str(LOCAL), *options, *command], env=environment, capture_output=True, text=True, timeout=500
    )
    return Job(done.returncode, tuple((logs / f"process-{i}.log").read_text() for i in range(2)), done.stderr)


def without_devices() -> dict[str, str]:
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return {**os.environ, "XLA_FLAGS": " ".join(flags)}
