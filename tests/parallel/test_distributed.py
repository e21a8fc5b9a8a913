"""Jobs of two real processes, four simulated devices each, started by launch/local.sh."""

from __future__ import annotations

import dataclasses
import functools
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import whole_runs
from jobs import Job, launch, without_devices

from wenlan_jax.config import sections
from wenlan_jax.parallel import distributed
from wenlan_jax.tasks import experiment

STEPS = 6

# The command line; one process of the job sends itself a signal when the metrics of a step are read.
DRIVER = """
import os
import sys

from wenlan_jax import cli
from wenlan_jax.monitoring import meter as progress

if __name__ == "__main__":
    process, number, step, *arguments = sys.argv[1:]
    if os.environ.get("WENLAN_PROCESS") == process:
        add = progress.Meter.add

        def add_and_signal(meter, done, *rest):
            if done == int(step):
                os.kill(os.getpid(), int(number))
            return add(meter, done, *rest)

        progress.Meter.add = add_and_signal
    sys.exit(cli.main(arguments))
"""

# Joins the job and lets process 1 alone be asked to stop after three rounds: at which round does each one stop?
SMALL = """
import sys

import jax
import numpy as np

from wenlan_jax.parallel import distributed
from wenlan_jax.parallel import mesh
from wenlan_jax.config import sections as schema
from wenlan_jax.parallel import stopping

distributed.start(schema.DistributedConfig(timeout=60), {"round": int(sys.argv[1])})
whole = mesh.create(schema.MeshConfig(smallest_split=0))
print(distributed.introduction(whole))
stop = stopping.StopSignal()
agreement = stopping.StopAgreement(stop, whole)
rows = np.arange(8, dtype=np.int32).reshape(2, 4)[jax.process_index()]
gathered = mesh.to_host(mesh.to_devices(whole, {"rows": rows})["rows"])
for number in range(10):
    if number == 3 and jax.process_index() == 1:
        stop.number = 15
    if signalled := agreement():
        break
print("stopped", number, signalled, gathered.tolist())
"""


def test_two_processes_meet_and_stop_together(tmp_path: Path) -> None:
    job = launch(tmp_path, sys.executable, "-c", SMALL, "7", environment=without_devices())
    assert job.status == 0, job.logs
    for number, log in enumerate(job.logs):
        assert f"process {number} of 2 on " in log
        assert "4 of 8 devices" in log
        assert "data=8" in log
    ends = [line for log in job.logs for line in log.splitlines() if line.startswith("stopped")]
    assert ends == ["stopped 4 15 [0, 1, 2, 3, 4, 5, 6, 7]"] * 2


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        ({"WENLAN_PROCESS": "1"}, "an incomplete place in a job"),
        ({"WENLAN_COORDINATOR": "here", "WENLAN_PROCESSES": "2", "WENLAN_PROCESS": "0"}, "HOST:PORT"),
        ({"WENLAN_COORDINATOR": "here:1", "WENLAN_PROCESSES": "2", "WENLAN_PROCESS": "2"}, "process 2 of 2"),
        ({"WENLAN_PROCESSES": "two"}, r"\$WENLAN_PROCESSES: a whole number is needed"),
    ],
)
def test_half_a_place_is_refused(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], fault: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(distributed.DistributedError, match=fault):
        distributed.start(sections.DistributedConfig(), {})


def test_fields_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WENLAN_COORDINATOR", "here:1"), ("WENLAN_PROCESSES", "4"), ("WENLAN_PROCESS", "3")):
        monkeypatch.setenv(name, value)
    found = distributed._explicit(sections.DistributedConfig(process=0, coordinator="there:2"))
    assert found is not None
    place = found.place
    assert (place.host, place.port, place.processes, place.process) == ("there", 2, 4, 0)


def test_a_slurm_step_is_found_as_jax_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    step = {
        "JOB_ID": 5000,
        "STEP_NODELIST": "node[07-08]",
        "STEP_NUM_TASKS": 16,
        "NTASKS": 16,
        "PROCID": 9,
        "LOCALID": 1,
    }
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    found = distributed._detected(1)
    assert found is not None and found.detected
    assert (found.place.host, found.place.processes, found.place.process) == ("node07", 16, 9)
    assert found.local_devices == [1]


def test_what_may_differ_between_machines_is_not_compared() -> None:
    flat = distributed.comparable(dataclasses.asdict(experiment.Config()))
    assert {"seed", "data.source", "mesh.data", "checkpoint.every"} <= flat.keys()
    assert not {"data.dir", "data.workers", "distributed.process", "compilation.cache"} & flat.keys()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where jobs and runs of one process on eight devices lie side by side."""

    runs: whole_runs.Place

    @property
    def root(self) -> Path:
        return self.runs.root

    def job(self, name: str, *fields: str, signal: int = 0, at: int = 0, process: int = 1) -> Job:
        """`wenlan train` in the work directory `name` by two processes, of which one gets a signal at a step."""
        driver = [sys.executable, str(self.root / "job.py"), str(process if signal else -1), str(int(signal)), str(at)]
        logs = self.root / f"logs {name} {len(list(self.root.glob('logs*')))}"
        return launch(logs, *driver, *self.runs.training(name, *fields), environment=self.runs.environment())

    def alone(self, name: str, *fields: str) -> subprocess.CompletedProcess[str]:
        """The same in one process of eight devices."""
        environment = self.runs.environment()
        environment["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
        command = self.runs.command(*self.runs.training(name, *fields))
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture
def place(root: Path, tiny: Callable[..., experiment.Config]) -> Place:
    config = tiny(
        mesh__data=-1,
        data__dir=str(root / "data"),
        tokenizer__train_size=1000,
        model__text__bert__vocab_size=0,
        model__image__encoder__dropout=0.1,
        # The gradient of a bias before a batch norm is rounding, which Adam with a small eps would blow up to whole
        # steps: the losses do not feel them, the running means of evaluation do.
        optimizer__eps=1e-3,
        train__steps=STEPS,
        checkpoint__every=2,
        checkpoint__keep=10,
    )
    (root / "job.py").write_text(DRIVER)
    return Place(whole_runs.Place.make(root, config))


@functools.cache
def two_processes(place: Place) -> Path:
    job = place.job("two processes")
    assert job.status == 0, job.logs
    return place.root / "two processes"


@functools.cache
def one_process(place: Place) -> Path:
    done = place.alone("one process")
    assert done.returncode == 0, done.stderr
    return place.root / "one process"


def losses(workdir: Path) -> np.ndarray:
    return np.array([line["train/loss"] for line in whole_runs.training_lines(workdir)])


def recalls(workdir: Path) -> dict[str, float]:
    found = json.loads((workdir / "result.json").read_text())
    return {name: value for name, value in found.items() if name.startswith("retrieval/")}


@pytest.mark.slow
def test_two_processes_train_as_one(place: Place) -> None:
    """The same batches, losses to rounding, and the same recall: 16 images do not tie."""
    one, two = one_process(place), two_processes(place)
    assert len(losses(one)) == STEPS
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-6, atol=1e-6)
    ids = [whole_runs.final_state(run)["banks/image/ids"] for run in (one, two)]
    np.testing.assert_array_equal(*ids)
    assert recalls(one) == recalls(two)


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_sigterm_to_one_process_stops_all_after_one_save(place: Place, process: int) -> None:
    name = f"stopped {process}"
    job = place.job(name, signal=signal.SIGTERM, at=1, process=process)
    assert job.status == 128 + signal.SIGTERM, job.logs
    stopped = [line for log in job.logs for line in log.splitlines() if line.startswith("stopped by SIGTERM")]
    assert len(stopped) == 2 and stopped[0] == stopped[1]
    at = int(stopped[0].split()[5])
    assert at < STEPS
    assert [("stopping after this step" in log) for log in job.logs] == [process == 0, process == 1]
    saved = sorted(
        int(folder.name) for folder in (place.root / name / "checkpoints").iterdir() if folder.name.isdigit()
    )
    assert saved == sorted({*range(2, at, 2), at})
    resumed = place.job(name)
    assert resumed.status == 0, resumed.logs
    assert f"resumed at step {at}:" in resumed.logs[0]
    whole_runs.assert_same_bits(whole_runs.final_state(two_processes(place)), whole_runs.final_state(place.root / name))


@pytest.mark.slow
def test_a_checkpoint_goes_from_one_process_to_two_and_back(place: Place) -> None:
    straight = one_process(place)
    assert place.alone("moved", "--config.train.steps=2", "--config.checkpoint.accept_changes=true").returncode == 0
    there = place.job("moved", "--config.train.steps=4", "--config.checkpoint.accept_changes=true")
    assert there.status == 0, there.logs
    assert "resumed at step 2:" in there.logs[0]
    back = place.alone("moved", "--config.checkpoint.accept_changes=true")
    assert back.returncode == 0, back.stderr
    assert "resumed at step 4:" in back.stdout
    np.testing.assert_allclose(losses(place.root / "moved"), losses(straight), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_killed_process_ends_the_job_with_a_message(place: Place, process: int) -> None:
    heartbeat = "--config.distributed.heartbeat=10"  # less than the launcher's grace
    job = place.job(f"killed {process}", heartbeat, signal=signal.SIGKILL, at=2, process=process)
    assert job.status == 128 + signal.SIGKILL
    assert f"process {process} ended with status 137" in job.said
    other = job.logs[1 - process]
    assert "lost another process of the job" in other or "another task died" in other, (job.said, other)


@pytest.mark.slow
def test_eval_in_two_processes_gives_the_figures_of_one(place: Place) -> None:
    workdir = two_processes(place)
    out = place.root / "evaluated"
    command = [sys.executable, str(place.root / "job.py"), "-1", "0", "0", "eval"]
    job = launch(
        place.root / "logs eval", *command, f"--workdir={workdir}", f"--out={out}", environment=place.runs.environment()
    )
    assert job.status == 0, job.logs
    assert recalls(out) == recalls(one_process(place))


def test_different_configurations_end_the_job_at_its_start(place: Place) -> None:
    train = " ".join(f"'{word}'" for word in place.runs.training("different"))
    script = f"exec '{sys.executable}' -m wenlan_jax.cli {train} --config.seed=$WENLAN_PROCESS"
    job = launch(place.root / "logs different", "bash", "-c", script, environment=place.runs.environment())
    assert job.status == 1
    for log in job.logs:
        assert "seed: 0 in process 0, 1 in process 1 on " in log
        assert "Traceback" not in log
