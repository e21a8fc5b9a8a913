"""Whole runs through the command line, each in a process of its own, on the smallest data set and one device."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from wenlan_jax.checkpoints import store
from wenlan_jax.config import sections
from wenlan_jax.core import trees
from wenlan_jax.monitoring import metrics_file
from wenlan_jax.tasks import experiment
from wenlan_jax.training import setup as runs

CONFIG = '''
import dataclasses

from ml_collections import config_dict

from wenlan_jax import config

TEXT = """{text}"""


def get_config():
    return config_dict.ConfigDict(dataclasses.asdict(config.from_json(TEXT)))
'''

# The command line, with a signal to itself when the metrics of a step are read.
DRIVER = """
import os
import sys

from wenlan_jax import cli

if __name__ == "__main__":
    number, step, *arguments = sys.argv[1:]
    if int(number):
        from wenlan_jax.monitoring import meter as progress

        add = progress.Meter.add

        def add_and_signal(meter, done, *rest):
            if done == int(step):
                os.kill(os.getpid(), int(number))
            return add(meter, done, *rest)

        progress.Meter.add = add_and_signal
    sys.exit(cli.main(arguments))
"""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where runs lie side by side; they share their configuration, their data set and their compiled programs."""

    root: Path

    @classmethod
    def make(cls, root: Path, config: experiment.Config) -> Place:
        """A place whose runs are of `config`."""
        (root / "config.py").write_text(CONFIG.format(text=experiment.to_json(config)))
        (root / "driver.py").write_text(DRIVER)
        return cls(root)

    @property
    def config(self) -> Path:
        return self.root / "config.py"

    def environment(self) -> dict[str, str]:
        """Of one device, with compiled programs shared."""
        flags = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
        return {
            **os.environ,
            "XLA_FLAGS": " ".join(flags),
            "JAX_COMPILATION_CACHE_DIR": str(self.root / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def command(self, *arguments: str, kill: int = 0, at: int = 0) -> list[str]:
        """The command line in a process of its own, which sends itself the signal `kill` at step `at`."""
        return [sys.executable, str(self.root / "driver.py"), str(int(kill)), str(at), *arguments]

    def call(self, *arguments: str, kill: int = 0, at: int = 0) -> subprocess.CompletedProcess[str]:
        """One call of the command line to its end."""
        command = self.command(*arguments, kill=kill, at=at)
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=300)

    def training(self, name: str, *fields: str) -> list[str]:
        """The arguments of `wenlan train` in the work directory `name`."""
        return ["train", f"--config={self.config}", f"--workdir={self.root / name}", *fields]

    def train(self, name: str, *fields: str, kill: int = 0, at: int = 0) -> subprocess.CompletedProcess[str]:
        """`wenlan train` in the work directory `name`, to its end."""
        return self.call(*self.training(name, *fields), kill=kill, at=at)


@functools.cache
def final_state(workdir: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Every leaf of a checkpoint (the newest by default) by name."""
    with store.Checkpoints(workdir / "checkpoints", sections.CheckpointConfig()) as checkpoints:
        _, note = checkpoints.note(step)
        current = runs.set_up(experiment.parse(note.config), jax.devices()[:1])
        _, state = checkpoints.restore(store.abstract_of(current.shapes, current.shardings), step)
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(state).items()}


def assert_same_bits(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


def training_lines(workdir: Path) -> list[dict[str, float]]:
    """The lines of training steps without what a clock or the system measures."""
    measured = ("per_second", "data_wait_share", "_gib", "mfu")
    lines = [row for row in metrics_file.read(workdir / "metrics.jsonl") if "train/loss" in row]
    return [{n: v for n, v in row.items() if not n.endswith(measured)} for row in lines]
