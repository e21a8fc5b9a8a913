"""The job array, with programs that stand for SLURM's."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from wenlan_jax.sweep import slurm

OPTIONS = "--sbatch=--time=1:00:00 --partition=gpu"


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def environment(sweeps: Any, task: int) -> dict[str, str]:
    path = f"{sweeps.root / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "7"}


def test_the_array_has_a_task_for_each_run_that_is_not_done(sweeps: Any) -> None:
    sweeps.call("--only=K = 8", "--seeds", "0")
    printed = sweeps.call("--backend=slurm", "--jobs=2", OPTIONS)
    script = sweeps.out / "sweep.sbatch"
    assert f"3 task(s) in {script}" in printed and f"submit it with: sbatch {script}" in printed
    lines = script.read_text().splitlines()
    assert {"#SBATCH --array=0-2%2", "#SBATCH --time=1:00:00", "#SBATCH --requeue"} <= set(lines)
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])  # SLURM reads none after a command
    program(sweeps.root / "bin", "wenlan", 'printf "%s\\n" "$@"')
    asked = set()
    for task in range(3):
        done = subprocess.run(["bash", script], env=environment(sweeps, task), capture_output=True, text=True)
        words = done.stdout.splitlines()
        assert done.returncode == 0 and words[0] == "sweep" and f"--out={sweeps.out}" in words
        asked.add(words[-1].removeprefix("--only-run="))
    assert asked == {made.run.name for made in sweeps.folders() if made.result() is None}
    sweeps.call()
    assert "every run is done" in sweeps.call("--backend=slurm")


def test_the_script_passes_shellcheck(sweeps: Any) -> None:
    (sweeps.root / "set up.sh").touch()
    sweeps.call("--backend=slurm", OPTIONS, f"--setup={sweeps.root / 'set up.sh'}")
    shellcheck = Path(sys.executable).parent / "shellcheck"
    command = [shellcheck, "--exclude=SC1091", sweeps.out / "sweep.sbatch"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert (
        f"source {shlex.quote(str((sweeps.root / 'set up.sh').resolve()))}" in (sweeps.out / "sweep.sbatch").read_text()
    )


@pytest.mark.parametrize(("ends_with", "requeued"), [(143, True), (0, False), (1, False)])
def test_a_task_comes_back_only_after_it_was_stopped(sweeps: Any, ends_with: int, requeued: bool) -> None:
    sweeps.call("--backend=slurm")
    program(sweeps.root / "bin", "wenlan", f"exit {ends_with}")
    program(sweeps.root / "bin", "scontrol", f"echo $* > {sweeps.root / 'called'}")
    done = subprocess.run(["bash", sweeps.out / "sweep.sbatch"], env=environment(sweeps, 1))
    assert done.returncode == ends_with
    called = sweeps.root / "called"
    assert (called.read_text().strip() if called.exists() else None) == ("requeue 7_1" if requeued else None)


def test_a_warning_reaches_the_sweep(sweeps: Any) -> None:
    sweeps.call("--backend=slurm")
    started = sweeps.root / "started"
    program(sweeps.root / "bin", "wenlan", f"trap 'exit 143' TERM; touch {started}; while :; do sleep 0.05; done")
    program(sweeps.root / "bin", "scontrol", "true")
    process = subprocess.Popen(["bash", sweeps.out / "sweep.sbatch"], env=environment(sweeps, 0))
    while not started.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143


def test_it_is_submitted_if_asked_for(sweeps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{sweeps.root / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(slurm.SlurmError, match="sbatch is not here"):
        sweeps.call("--backend=slurm", "--submit")
    program(sweeps.root / "bin", "sbatch", "echo Submitted batch job 7")
    assert "Submitted batch job 7" in sweeps.call("--backend=slurm", "--submit")
    program(sweeps.root / "bin", "sbatch", "echo invalid partition >&2; exit 1")
    with pytest.raises(slurm.SlurmError, match="refused .*: invalid partition"):
        sweeps.call("--backend=slurm", "--submit")


def test_options_that_are_none_are_refused(sweeps: Any) -> None:
    with pytest.raises(slurm.SlurmError, match="'gpu' is no option"):
        sweeps.call("--backend=slurm", "--sbatch=--partition gpu")
