"""Time and memory of `wenlan import` and `wenlan export` at a configuration's full size, beside a plain copy.

The file is made of random numbers in the official layout, so the measurement needs no released weights. Every part
runs in a process of its own, whose peak the kernel reports; what an interpreter holds with the same libraries and no
weights is taken off.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from wenlan_jax.convert import export_brivl, exporting, weights
from wenlan_jax.core import trees
from wenlan_jax.core.state import MOMENTUM
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks import experiment, registry
from wenlan_jax.tasks.two_tower.spec import TWO_TOWERS
from wenlan_jax.training import setup
from wenlan_jax.util.errors import WenlanError

ROUNDS = 3
"""How often each part is measured, in turn; the medians are reported, with the extremes of the ratios."""

_INTERPRETER = "import jax, torch, wenlan_jax.training.loop, wenlan_jax.convert.importing; jax.devices()"
_MAKE = """
import sys, pathlib, wenlan_jax.config as config, wenlan_jax.bench.conversion as conversion
target, path, *fields = sys.argv[1:]
conversion.write_random(config.load(pathlib.Path(path), fields), pathlib.Path(target))
"""
_COMPARE = """
import sys, pathlib, wenlan_jax.bench.conversion as conversion
conversion.same(*map(pathlib.Path, sys.argv[1:])) or sys.exit("an import and an export gave other bits back")
"""
_WRITE = """
import sys, pathlib, wenlan_jax.convert.export_brivl as export_brivl, wenlan_jax.convert.exporting as exporting
workdir, target = map(pathlib.Path, sys.argv[1:])
export_brivl.write_file(exporting.load(workdir, None, "float32"), target)
"""
_COPY = """
import os, sys, torch
source, target = sys.argv[1:]
state = torch.load(source, weights_only=True)
with open(target, "wb") as file:
    torch.save(state, file)
    file.flush()
    os.fsync(file.fileno())
"""


class ProcessCost(NamedTuple):
    """What a process took.

    Attributes:
        seconds: from start to end.
        peak: its largest resident size in bytes.
    """

    seconds: float
    peak: int


class Round(NamedTuple):
    """What each part cost in one round.

    Attributes:
        plain_copy: a copy by PyTorch.
        importing: `wenlan import`.
        writing: an export without its proof, which no command offers.
        exporting: `wenlan export`.
    """

    plain_copy: ProcessCost
    importing: ProcessCost
    writing: ProcessCost
    exporting: ProcessCost


class ConversionBenchError(WenlanError, RuntimeError):
    """A part of the measurement that failed."""


def run_conversion(path: Path, fields: Sequence[str], out: Path | None) -> dict[str, float]:
    """Measures both directions of the `brivl` layout; prints ratios.

    It needs some five times the file's size in the temporary directory.

    Args:
        path: a configuration file.
        fields: `--config.field=value` each.
        out: a file for the figures, as JSON; None for none.

    Returns:
        The figures by name, medians of `ROUNDS`.

    Raises:
        ConversionError: with the output of a command that fails, and for a single tower.
    """
    config = experiment.load(path, fields)
    if registry.of(config).model != TWO_TOWERS:
        raise ConversionBenchError(
            f"--conversion is measured on the two towers of BriVL, and {path} has task {config.task!r}"
        )
    experiment.require_vocabulary(config, "a benchmark")
    with tempfile.TemporaryDirectory(prefix="wenlan_conversion_") as folder:
        figures = _measure((str(path), *fields), Path(folder))
    if out is not None:
        out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return figures


def _measure(settings: Sequence[str], folder: Path) -> dict[str, float]:
    source = folder / "official.pth"
    say("making a file of random weights in the official layout ...")
    # In a process of its own: a child's peak starts at what its parent held when it was started.
    cost([sys.executable, "-c", _MAKE, str(source), *settings])
    size = source.stat().st_size
    say(
        f"{size:,} bytes; measuring a plain copy, an import and an export of it, this without its proof and whole,"
        f" {ROUNDS} times in turn ..."
    )
    idle = cost([sys.executable, "-c", _INTERPRETER]).peak
    rounds = [_round(source, settings, folder / str(number)) for number in range(ROUNDS)]
    figures: dict[str, float] = {"file_bytes": size, "interpreter_peak_bytes": idle}
    for part in Round._fields:
        costs = [getattr(one, part) for one in rounds]
        ratios = [cost.seconds / one.plain_copy.seconds for cost, one in zip(costs, rounds, strict=True)]
        seconds, ratio = statistics.median(cost.seconds for cost in costs), statistics.median(ratios)
        share = (max(cost.peak for cost in costs) - idle) / size
        figures |= {f"{part}_seconds": seconds, f"{part}_peak_share": share, f"{part}_time_ratio": ratio}
        say(
            f"{part.replace('_', ' '):<12}{seconds:7.1f} s, {ratio:4.2f} times a plain copy"
            f" ({min(ratios):.2f} to {max(ratios):.2f}), peak {share:.2f} times the file"
        )
    both = [(one.importing.seconds + one.exporting.seconds) / (2 * one.plain_copy.seconds) for one in rounds]
    figures["both_ways_time_ratio"] = statistics.median(both)
    say(f"in and out together {statistics.median(both):.2f} times two copies ({min(both):.2f} to {max(both):.2f})")
    return figures


def _round(source: Path, settings: Sequence[str], folder: Path) -> Round:
    """Copies, imports and exports once, in a folder that is gone afterwards. Raises ConversionError for other bits."""
    folder.mkdir()
    wenlan = [sys.executable, "-m", "wenlan_jax.cli"]
    given = (f"--config={settings[0]}", *settings[1:])
    costs = Round(
        cost([sys.executable, "-c", _COPY, str(source), str(folder / "copy.pth")]),
        cost([*wenlan, "import", "--format=brivl", f"--from={source}", f"--out={folder / 'in'}", *given]),
        cost([sys.executable, "-c", _WRITE, str(folder / "in"), str(folder / "written.pth")]),
        cost([*wenlan, "export", f"--workdir={folder / 'in'}", "--format=brivl", f"--out={folder / 'out'}"]),
    )
    # In a process of its own, for the reason in `_measure`.
    cost([sys.executable, "-c", _COMPARE, str(source), str(folder / "out" / export_brivl.FILE)])
    copied, taken, written, given_back = (f"{cost.seconds:.1f} s" for cost in costs)
    say(f"a copy {copied}, in {taken}, out {written} and {given_back} with proof; the same bits")
    shutil.rmtree(folder)
    return costs


def write_random(config: experiment.Config, path: Path) -> None:
    """Writes a file of random weights of the configuration's size in the official layout."""
    export_brivl.write_file(random_model(config), path)


def random_model(config: experiment.Config) -> exporting.ExportedModel:
    """Makes a model of a configuration's size with random weights, as `wenlan export` would read it."""
    shapes = setup.set_up(config, jax.devices()[:1]).shapes
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
    return exporting.ExportedModel(config, 0, tower, towers, momentum, None, {}, {}, "float32")


def cost(command: Sequence[str]) -> ProcessCost:
    """Runs a command.

    Args:
        command: its words.

    Returns:
        What it took.

    Raises:
        ConversionError: with what it printed, if it fails.
    """
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise ConversionBenchError(f"{' '.join(command)} failed:\n{log.read().decode(errors='replace')[-2000:]}")
    per_unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, kilobytes elsewhere
    return ProcessCost(seconds, usage.ru_maxrss * per_unit)


def same(one: Path, other: Path) -> bool:
    """Says whether two files hold the same arrays to the bit; one pair of arrays is compared at a time."""
    first, second = weights.read(one), weights.read(other)
    return first.keys() == second.keys() and all(first[key].tobytes() == second[key].tobytes() for key in first)
