"""Tables of tiny configurations, and a stand-in for the training command, which takes a blink instead of a minute."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import tiny_dict
from whole_runs import CONFIG

from wenlan_jax.commands import sweep as command
from wenlan_jax.sweep import folder, local_runs, plan, table
from wenlan_jax.tasks import experiment

TABLE = '''
"""A bank of K keys is better than none [R]."""

from wenlan_jax.sweep.table import Row
from wenlan_jax.sweep.table import Table


def get_table():
    return Table(
        title="Size of the banks",
        base="base.py",
        rows=({rows}),
        seeds={seeds},
        baseline="K = 20",
        metrics=("retrieval/test/text_to_image/recall_at_1", "retrieval/test/mean_recall"),
    )
'''

ROWS = 'Row("K = 20"), Row("K = 8", {"contrast.bank_size": 8})'

# Steps of a fiftieth of a second; 40 held-out images with two texts each, found sooner with the larger bank.
TRAINER = """
import json, os, signal, sys, time
from pathlib import Path

import numpy as np

from wenlan_jax.monitoring import time_ledger as ledger
from wenlan_jax.evaluation import query_ranks as ranks

words = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[2:])
workdir, config = Path(words["workdir"]), json.loads(Path(words["config"]).with_name("config.json").read_text())
with (workdir / "starts.txt").open("a") as starts:
    starts.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\\n")
(workdir / "start.json").unlink(missing_ok=True)  # which a start writes anew
os.close(os.open(workdir / "writing", os.O_CREAT | os.O_EXCL))  # two at once in one directory would be a fault
saved = workdir / "saved"
step = int(saved.read_text()) if saved.exists() else 0
stopped = 0


def stop(number, frame):
    global stopped
    stopped = number


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
print(f"from step {step}", flush=True)
clock = ledger.TimeLedger()
clock.go_on(step, workdir / "ledger.jsonl")
seed, bank = config["seed"], config["contrast"]["bank_size"]
while step < config["train"]["steps"]:
    step += 1
    clock.step_done(step)
    time.sleep(0.02)
    if (workdir.parent / f"break_{bank}").exists():
        os.unlink(workdir / "writing")
        sys.exit("the disk is full")
    if stopped:
        saved.write_text(str(step))
        clock.write("Stopped")
        os.unlink(workdir / "writing")
        sys.exit(128 + stopped)
    with (workdir / "metrics.jsonl").open("a") as lines:
        value = 0.1 * step / config["train"]["steps"]
        lines.write(json.dumps({"step": step, "retrieval/validation/text_to_image/recall_at_1": value}) + "\\n")
found = np.random.default_rng(seed).integers(1, 30, 80) // (2 if bank > 10 else 1) + 1
links = np.repeat(np.arange(40), 2)
best = np.full(40, 99)
np.minimum.at(best, links, found)
ranks.write(workdir, "test", ranks.of_queries(best, found, links, ["zh", "en"] * 40, [str(i) for i in range(80)]))
recalls = [np.mean(of <= k) for of in (best, found) for k in (1, 5, 10)]
(workdir / "result.json").write_text(json.dumps({
    "retrieval/test/text_to_image/recall_at_1": recalls[3], "retrieval/test/mean_recall": float(np.mean(recalls)),
    "train/steps": step, "train/pairs": step * config["train"]["batch_size"], "train/devices": 2,
    "seconds/steps": 2.0, "seconds/wait_for_data": 2.0,
}))
clock.write(ledger.FINISHED)
os.unlink(workdir / "writing")
"""

DRIVER = """
import argparse, sys

from wenlan_jax.commands import sweep as command
from wenlan_jax.sweep import folder
from wenlan_jax.sweep import local_runs as local

if __name__ == "__main__":
    trainer, *arguments = sys.argv[1:]
    folder.wenlan_command = lambda: [sys.executable, trainer]
    local.LOOK_SECONDS = 0.2
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    try:
        sys.exit(command.run(parser.parse_args(arguments), []))
    except local.Interrupted as stopped:
        print(stopped)
        sys.exit(128 + stopped.signal)
"""


@dataclasses.dataclass(frozen=True)
class Sweeps:
    """A folder with a base configuration of 6 steps, a table in queue.py, and calls of `wenlan sweep` on it."""

    root: Path

    @property
    def out(self) -> Path:
        return self.root / "out"

    def write_table(self, name: str = "queue", rows: str = ROWS, seeds: str = "(0, 1)") -> Path:
        path = self.root / f"{name}.py"
        path.write_text(TABLE.replace("{rows}", rows).replace("{seeds}", seeds))
        return path

    def write_base(self, **changes: object) -> None:
        config = experiment.parse(tiny_dict(**changes))
        (self.root / "base.py").write_text(CONFIG.format(text=experiment.to_json(config)))

    def plan(self, *names: str) -> plan.SweepPlan:
        return plan.make([table.load(self.root / f"{name}.py") for name in names or ("queue",)])

    def folders(self, *names: str) -> list[folder.RunFolder]:
        store = folder.RunStore(self.out)
        return [store.folder(run) for run in self.plan(*names).runs.values()]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A call as a process of its own."""
        words = [str(self.root / "trainer.py"), str(self.root / "queue.py"), f"--out={self.out}", *arguments]
        return subprocess.Popen(
            [sys.executable, str(self.root / "driver.py"), *words],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def call(self, *arguments: str, tables: tuple[str, ...] = ("queue",), status: int = 0) -> str:
        """What a call prints, in this process and to its end."""
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        files = [str(self.root / f"{name}.py") for name in tables]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            found = command.run(parser.parse_args([*files, f"--out={self.out}", *arguments]), [])
        assert found == status, printed.getvalue()
        return printed.getvalue()

    def pool(self, jobs: int = 1, **options: int) -> local_runs.RunPool:
        """The runs of the table in this process."""
        wenlan = [sys.executable, str(self.root / "trainer.py")]
        return local_runs.RunPool(
            self.folders(), local_runs.slots(jobs, options.get("gpus", 0), None), wenlan, lambda line: None
        )

    def starts(self) -> int:
        """How often the stand-in was started, over all runs."""
        return sum(len(path.read_text().splitlines()) for path in self.out.glob("runs/*/starts.txt"))


@pytest.fixture
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    """See `Sweeps`."""
    monkeypatch.setattr(folder, "wenlan_command", lambda: [sys.executable, str(tmp_path / "trainer.py")])
    made = Sweeps(tmp_path)
    made.write_base(eval__every=2)
    made.write_table()
    (tmp_path / "trainer.py").write_text(textwrap.dedent(TRAINER))
    (tmp_path / "driver.py").write_text(DRIVER)
    return made


def wait_for(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Returns as soon as something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture(name="wait_for")
def _wait_for() -> Callable[..., None]:
    return wait_for
