"""A sweep as one SLURM job array: a task a run, each of which calls `wenlan sweep` for that run alone."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from wenlan_jax.util import atomic_files
from wenlan_jax.util.errors import WenlanError

SCRIPT = "sweep.sbatch"
"""In the folder of a sweep: its job array."""

WARNING_SECONDS = 300
"""How long before the end of its time a task is told to save."""

TASK = r"""
# SIGTERM comes before the end of the time or with a preemption: the training saves its state, and the task goes back
# into the queue and continues there.
trap 'kill -TERM "$sweep" 2> /dev/null' TERM
"$@" &
sweep=$!
status=0
wait "$sweep" || status=$?
while kill -0 "$sweep" 2> /dev/null; do
  status=0
  wait "$sweep" || status=$?
done
if [ "$status" -eq 143 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$status"
"""


class SlurmError(WenlanError, RuntimeError):
    """A job array that cannot be written or submitted."""


@dataclasses.dataclass(frozen=True)
class SlurmRequest:
    """What goes into the batch script.

    Attributes:
        runs: names of the runs.
        command: `wenlan sweep ...` without --only-run, as it is called on every machine.
        jobs: tasks that run at once.
        options: of sbatch, such as --time=4:00:00.
        setup: a script to source first; None for none.
        logs: the folder of the logs.
    """

    runs: Sequence[str]
    command: Sequence[str]
    jobs: int
    options: Sequence[str]
    setup: Path | None
    logs: Path


def script(request: SlurmRequest) -> str:
    """Writes the batch script.

    Args:
        request: what goes into it.

    Returns:
        The script.

    Raises:
        SlurmError: for options that an #SBATCH line cannot hold.
    """
    bad = [option for option in request.options if not option.startswith("--") or "\n" in option]
    if bad:
        raise SlurmError(f"--sbatch: {bad[0]!r} is no option of sbatch in the form --name=value")
    directives = [
        "--job-name=wenlan-sweep",
        f"--array=0-{len(request.runs) - 1}%{request.jobs}",
        f"--output={request.logs}/%x-%A-%a.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:TERM@{WARNING_SECONDS}",
        *request.options,
    ]
    lines = ["#!/usr/bin/env bash", *(f"#SBATCH {directive}" for directive in directives), "set -uo pipefail"]
    if request.setup is not None:
        lines.append(f"source {shlex.quote(str(request.setup.resolve()))}")
    lines.append(f"runs=({' '.join(request.runs)})")
    lines.append(f'set -- {shlex.join(request.command)} "--only-run=${{runs[$SLURM_ARRAY_TASK_ID]}}"')
    return "\n".join(lines) + "\n" + TASK


def write(request: SlurmRequest) -> Path:
    """Writes the batch script into the folder of the logs, and returns its path. See `script`."""
    text = script(request)
    request.logs.mkdir(parents=True, exist_ok=True)
    path = request.logs / SCRIPT
    atomic_files.write(path, os.fsencode(text), shared=True)
    return path


def submit(path: Path) -> str:
    """Submits a script.

    Args:
        path: the script.

    Returns:
        What sbatch answers.

    Raises:
        SlurmError: if there is no sbatch, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise SlurmError(f"sbatch is not here; submit {path} on a login machine of the cluster")
    done = subprocess.run(["sbatch", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise SlurmError(f"sbatch refused {path}: {done.stderr.strip()}")
    return done.stdout.strip()
