"""Time and memory of `wenlan import` and `wenlan export` at a configuration's full size, beside a plain copy.

The file is made of random numbers in the official layout, so the measurement needs no released weights. Every part
runs in a process of its own, whose peak the kernel reports; what an interpreter holds with the same libraries and no
weights is taken off.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from wenlan_jax import config as configs
from wenlan_jax import run, schema, trees
from wenlan_jax.convert import export_brivl, exporting, weights
from wenlan_jax.progress import say
from wenlan_jax.state import MOMENTUM

_INTERPRETER = "import jax, torch, wenlan_jax.train, wenlan_jax.convert.importing; jax.devices()"
_MAKE = """
import sys, pathlib, wenlan_jax.config as config, wenlan_jax.bench.conversion as conversion
target, path, *fields = sys.argv[1:]
conversion.write_random(config.load(pathlib.Path(path), fields), pathlib.Path(target))
"""
_COPY = """
import sys, pathlib, numpy, wenlan_jax.convert.weights as weights
source, target = map(pathlib.Path, sys.argv[1:])
state = {key: numpy.array(value) for key, value in weights.read(source).items()}
weights.write_torch({"learnable": state}, target)
"""


class Cost(NamedTuple):
    """Of one process: seconds from start to end, and its largest resident size in bytes."""

    seconds: float
    peak: int


class ConversionError(RuntimeError):
    """A part of the measurement that failed."""


def run_conversion(path: Path, fields: Sequence[str], out: Path | None) -> dict[str, float]:
    """Measures both directions of the `brivl` layout for the configuration `path` with `fields` set; prints ratios.

    Needs some four times the file's size in the temporary directory. Returns the figures by name; also writes them to
    `out` if given. Raises ConversionError with the output of a command that fails, and for a single tower.
    """
    config = configs.load(path, fields)
    if config.task in schema.SINGLE_TASKS:
        raise ConversionError(
            f"--conversion is measured on the two towers of BriVL, and {path} has task {config.task!r}"
        )
    configs.require_vocabulary(config, "a benchmark")
    with tempfile.TemporaryDirectory(prefix="wenlan_conversion_") as folder:
        figures = _measure((str(path), *fields), Path(folder))
    if out is not None:
        out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return figures


def _measure(settings: Sequence[str], folder: Path) -> dict[str, float]:
    source, copy = folder / "official.pth", folder / "copy.pth"
    say("making a file of random weights in the official layout ...")
    # In a process of its own: a child's peak starts at what its parent held when it was started.
    cost([sys.executable, "-c", _MAKE, str(source), *settings])
    size = source.stat().st_size
    say(f"{size:,} bytes; measuring a plain copy, an import and an export of it ...")
    idle = cost([sys.executable, "-c", _INTERPRETER]).peak
    wenlan = [sys.executable, "-m", "wenlan_jax.cli"]
    given = (f"--config={settings[0]}", *settings[1:])
    costs = {
        "plain copy": cost([sys.executable, "-c", _COPY, str(source), str(copy)]),
        "import": cost([*wenlan, "import", "--format=brivl", f"--from={source}", f"--out={folder / 'in'}", *given]),
        "export": cost([*wenlan, "export", f"--workdir={folder / 'in'}", "--format=brivl", f"--out={folder / 'out'}"]),
    }
    same = _same(source, folder / "out" / export_brivl.FILE)
    say(f"the exported file holds {'the same bits' if same else 'OTHER NUMBERS'}")
    if not same:
        raise ConversionError("an import and an export did not give the file back")
    figures: dict[str, float] = {"file_bytes": size, "interpreter_peak_bytes": idle}
    plain = costs["plain copy"].seconds
    for name, (seconds, peak) in costs.items():
        key = name.replace(" ", "_")
        share = (peak - idle) / size
        figures |= {f"{key}_seconds": seconds, f"{key}_peak_share": share, f"{key}_time_ratio": seconds / plain}
        say(f"{name:<12}{seconds:7.1f} s, {seconds / plain:4.1f} times a plain copy, peak {share:.2f} times the file")
    return figures


def write_random(config: schema.Config, path: Path) -> None:
    """Writes a file of random weights of the configuration's size in the official layout."""
    weights.write_torch({"learnable": export_brivl.official_state(random_model(config))}, path)


def random_model(config: schema.Config) -> exporting.Model:
    """A model of a configuration's size with random weights, as `wenlan export` would read it from a checkpoint."""
    shapes = run.set_up(config, jax.devices()[:1]).shapes
    random = np.random.default_rng(config.seed)

    def draw(name: str, leaf: Any) -> np.ndarray:
        if name.rsplit("/", 1)[-1] in ("scale", "var", "bias", "mean"):  # the first two must be positive
            return random.uniform(0.5, 1, leaf.shape).astype(np.float32)
        fan_in = math.prod(leaf.shape[:-1])
        return random.standard_normal(leaf.shape, np.float32) * np.float32(fan_in**-0.5)

    towers = exporting.by_tower(shapes.params, shapes.batch_stats)

    def tower(name: str) -> dict[str, Any]:
        drawn: dict[str, Any] = trees.map_named(draw, towers[name.removesuffix(MOMENTUM)])
        return drawn

    momentum = shapes.momentum is not None
    return exporting.Model(config, 0, tower, towers, momentum, None, {}, {}, "float32")


def cost(command: Sequence[str]) -> Cost:
    """Runs a command; raises ConversionError with what it printed if it fails."""
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise ConversionError(f"{' '.join(command)} failed:\n{log.read().decode(errors='replace')[-2000:]}")
    per_unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, kilobytes elsewhere
    return Cost(seconds, usage.ru_maxrss * per_unit)


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same arrays to the bit; one pair of arrays is compared at a time."""
    first, second = weights.read(one), weights.read(other)
    return first.keys() == second.keys() and all(first[key].tobytes() == second[key].tobytes() for key in first)
