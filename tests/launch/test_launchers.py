"""The scripts of launch/: linted, run dry, and the local one run on small commands."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from repository import ROOT

LAUNCH = ROOT / "launch"
SCHEMA = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())

WORDS = ["wenlan", "train", "--config=a b.py", "--config.eval.splits=('x', \"y\")", "--config.data.dir=$HOME & \\co"]
"""A command whose words a careless shell would take apart."""

GPU = ["gpu", "--name", "brivl", "--image", "registry.example/wenlan:1", "--nodes", "16", "--claim", "runs"]
TPU = ["tpu", *GPU[1:], "--accelerator", "tpu-v5p-slice", "--topology", "4x4x4", "--slices", "2"]
POD = ["--name", "brivl", "--zone", "z1", "--type", "v5p-128", "--runtime", "v2"]


def run(script: str, *arguments: str, status: int = 0) -> str:
    """What a script prints; where it fails, what it complains of."""
    command = ["bash", str(LAUNCH / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def shellcheck(*arguments: str, text: str | None = None) -> None:
    command = [str(Path(sys.executable).parent / "shellcheck"), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_scripts_pass_shellcheck() -> None:
    scripts = sorted(LAUNCH.glob("*.sh"))
    assert len(scripts) >= 7
    shellcheck("--external-sources", "--source-path", str(LAUNCH), "--shell=bash", *map(str, scripts))


def test_every_script_says_how_it_is_called() -> None:
    for script in LAUNCH.glob("*.sh"):
        header = [line for line in script.read_text().splitlines()[:20] if line.startswith("#")]
        if script.name != "environment.sh":  # sourced by the others
            assert any(f"bash launch/{script.name}" in line for line in header), script.name


def slurm() -> str:
    options = ["--nodes", "4", "--gpus", "2", "--time", "1:00:00", "--partition", "gpu", "--dry-run", "--"]
    return run("slurm.sh", *options, *WORDS)


def test_the_slurm_script_asks_for_a_process_a_gpu_and_for_its_return() -> None:
    script = slurm()
    shellcheck("-", text=script)
    lines = script.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    assert options["nodes"] == "4"
    assert options["ntasks-per-node"] == options["gpus-per-node"] == "2"
    assert options["time"] == "1:00:00" and options["partition"] == "gpu"
    assert options["signal"] == "B:TERM@300" and options["requeue"] == ""
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])  # SLURM reads none after a command


@pytest.mark.parametrize(("ends_with", "requeued"), [(143, True), (0, False), (1, False)])
def test_the_slurm_script_comes_back_only_after_a_stop(tmp_path: Path, ends_with: int, requeued: bool) -> None:
    """Run here, with programs that stand for SLURM's."""
    called = tmp_path / "called"
    for name, status in (("srun", ends_with), ("scontrol", 0)):
        program = tmp_path / name
        program.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" {name} "$@" >> "{called}"\nexit {status}\n')
        program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    done = subprocess.run(["bash"], input=slurm(), env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == ends_with
    words = called.read_text().splitlines()
    assert words[: 3 + len(WORDS)] == ["srun", "--kill-on-bad-exit=0", "--label", *WORDS]
    assert words[3 + len(WORDS) :] == (["scontrol", "requeue", "77"] if requeued else [])


def test_the_tpu_script_makes_installs_runs_and_deletes() -> None:
    lines = run("tpu_pod.sh", *POD, "--slices", "2", "--spot", "--dry-run", "--", *WORDS).splitlines()
    commands = [shlex.split(line) for line in lines if not line.startswith("#") and line.startswith("gcloud")]
    verbs = [tuple(words[3:5]) for words in commands]
    assert verbs[0] == ("queued-resources", "create") and verbs[-1] == ("queued-resources", "delete")
    assert {"--spot", "--node-count", "--node-prefix"} <= set(commands[0])
    runs = [words for words in commands if any("wenlan train" in word for word in words)]
    assert [words[5] for words in runs] == ["brivl-0", "brivl-1"]  # both slices
    assert all("--worker=all" in words and words[-2:] == ["--zone", "z1"] for words in commands if words[3] == "tpu-vm")
    there = runs[0][runs[0].index("--command") + 1].split('PATH" ')[1]
    assert shlex.split(there) == WORDS


def test_the_tpu_script_keeps_or_deletes_on_request() -> None:
    assert "delete" not in run("tpu_pod.sh", *POD, "--keep", "--dry-run", "--", *WORDS)
    deleting = run("tpu_pod.sh", "--name", "brivl", "--zone", "z1", "--delete", "--dry-run")
    assert "queued-resources delete brivl" in deleting
    assert len(deleting.splitlines()) == 1


def manifest(arguments: list[str]) -> dict[str, Any]:
    text = run("kubernetes.sh", *arguments, "--dry-run", "--", *WORDS)
    assert "@" not in text
    found: dict[str, Any] = yaml.safe_load(text)
    jsonschema.validate(found, SCHEMA)
    return found


def parts(found: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The replicated job, its job and its container."""
    (replicated,) = found["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    return replicated, job, container


def test_the_gpu_manifest_gives_each_pod_its_place() -> None:
    found = manifest(GPU)
    replicated, job, container = parts(found)
    assert job["completions"] == job["parallelism"] == 16
    assert container["command"] == WORDS
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    environment = {one["name"]: one.get("value") or one["valueFrom"] for one in container["env"]}
    assert environment["WENLAN_PROCESSES"] == "16"
    name = found["metadata"]["name"]  # a pod is called JOBSET-JOB-REPLICA-INDEX, below the JobSet's domain
    assert environment["WENLAN_COORDINATOR"] == f"{name}-{replicated['name']}-0-0.{name}:29400"
    assert "job-completion-index" in environment["WENLAN_PROCESS"]["fieldRef"]["fieldPath"]


def test_the_tpu_manifest_has_a_job_a_slice() -> None:
    replicated, job, container = parts(manifest(TPU))
    assert replicated["replicas"] == 2
    assert job["completions"] == 16
    assert container["command"] == WORDS
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    selector = job["template"]["spec"]["nodeSelector"]
    assert list(selector.values()) == ["tpu-v5p-slice", "4x4x4"]


def test_the_schema_refuses_what_the_api_would() -> None:
    for spoil in (lambda m: m["spec"].update(replicas=2), lambda m: parts(m)[1].update(completions="16")):
        found = manifest(GPU)
        spoil(found)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(found, SCHEMA)


@pytest.mark.parametrize(
    ("script", "arguments", "complaint"),
    [
        ("local.sh", ["--", "true"], "the number of processes comes first"),
        ("local.sh", ["2"], "the command comes after --"),
        ("local.sh", ["2", "--what", "x", "--", "true"], "--what: no such option"),
        ("local.sh", ["2", "--gpus", "--devices-per-process", "2", "--", "true"], "does not go with --gpus"),
        ("slurm.sh", ["--", "true"], "--time is needed"),
        ("slurm.sh", ["--time", "1:00:00", "--nodes", "x", "--", "true"], "whole numbers, not x"),
        ("slurm.sh", ["--time", "1:00:00", "--name", "a b", "--", "true"], "no blanks"),
        ("tpu_pod.sh", ["--zone", "z", "--", "true"], "--name is needed"),
        ("tpu_pod.sh", ["--name", "n", "--zone", "z", "--", "true"], "--type is needed"),
        ("kubernetes.sh", ["cpu"], "gpu or tpu comes first"),
        ("kubernetes.sh", ["gpu", "--name", "Big", "--", "true"], "--name is needed, in lower case"),
        ("kubernetes.sh", ["gpu", "--name", "n", "--", "true"], "--image is needed"),
        ("kubernetes.sh", ["tpu", *GPU[1:], "--", "true"], "--accelerator and --topology are needed"),
    ],
)
def test_what_is_missing_is_said(script: str, arguments: list[str], complaint: str) -> None:
    assert complaint in run(script, *arguments, status=2)


def local(tmp_path: Path, script: str, *options: str) -> list[str]:
    return ["bash", str(LAUNCH / "local.sh"), "3", "--logs", str(tmp_path), *options, "--", "bash", "-c", script]


def test_local_processes_know_their_place_and_have_logs(tmp_path: Path) -> None:
    script = 'echo "$WENLAN_PROCESS/$WENLAN_PROCESSES at $WENLAN_COORDINATOR $XLA_FLAGS"'
    done = subprocess.run(local(tmp_path, script, "--devices-per-process", "2", "--port", "1234"), capture_output=True)
    assert done.returncode == 0
    for number in range(3):
        log = (tmp_path / f"process-{number}.log").read_text()
        assert log.startswith(f"{number}/3 at 127.0.0.1:1234 ")
        assert log.rstrip().endswith("--xla_force_host_platform_device_count=2")
        assert f"[{number}] {number}/3 at".encode() in done.stdout


def test_local_dry_run_prints_commands_that_run_as_they_are(tmp_path: Path) -> None:
    command = local(tmp_path / "none", "echo $WENLAN_PROCESS 'a  b'", "--dry-run")
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [subprocess.check_output(["bash", "-c", line], text=True) for line in lines] == [
        f"{number} a  b\n" for number in range(3)
    ]
    assert not (tmp_path / "none").exists()


def test_a_failed_local_process_ends_the_others_and_gives_its_status(tmp_path: Path) -> None:
    began = time.monotonic()
    script = "if [ $WENLAN_PROCESS = 1 ]; then exit 7; fi; sleep 60"
    done = subprocess.run(local(tmp_path, script, "--grace", "1"), capture_output=True, text=True)
    assert done.returncode == 7
    assert "process 1 ended with status 7" in done.stderr
    assert "ending the other processes" in done.stderr
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_signals_on(tmp_path: Path, number: signal.Signals) -> None:
    script = f"trap 'echo told; exit {128 + number}' {number.name[3:]}; echo ready; while true; do sleep 0.1; done"
    job = subprocess.Popen(local(tmp_path, script), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    logs = [tmp_path / f"process-{i}.log" for i in range(3)]
    while not all(log.exists() and "ready" in log.read_text() for log in logs):
        time.sleep(0.1)
    job.send_signal(number)
    job.communicate(timeout=30)
    assert job.returncode == 128 + number
    assert all("told" in log.read_text() for log in logs)
