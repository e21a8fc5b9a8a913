"""`wenlan bench` of a training step: its speed, where its time and memory go, and PyTorch beside it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from wenlan_jax.bench import measure, single, torch_side, torch_side_single
from wenlan_jax.bench.torch_worker import AnyJob, TorchError, TorchProcess
from wenlan_jax.core.state import TrainState
from wenlan_jax.data.loader import HostBatch
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks import experiment, registry
from wenlan_jax.tasks.batch import random_batch
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.single_tower.spec import SINGLE_TOWER
from wenlan_jax.tasks.two_tower.spec import TWO_TOWERS
from wenlan_jax.training import setup

ROUNDS = 3
"""Turns that each side gets in a comparison."""


OnDevices = dict[str, jax.Array]


class TorchSide(NamedTuple):
    """What PyTorch needs to take the same step.

    Attributes:
        check: raises if it cannot follow a configuration.
        job: makes what its process is started with.
        said: computes our side of what its `Worker.said` says.
    """

    check: Callable[[experiment.Config], None]
    job: Callable[[experiment.Config, TrainState, HostBatch], AnyJob]
    said: Callable[[Run, TrainState, OnDevices], OnDevices]


TORCH = {
    "brivl": TorchSide(torch_side.check, torch_side.job, torch_side.said),
    "mlmm": TorchSide(torch_side_single.check, torch_side_single.job, torch_side_single.said),
}
"""The tasks that an independent PyTorch model takes the step of, too."""

PARTS = {TWO_TOWERS: measure.parts, SINGLE_TOWER: single.parts}
"""What times the parts of a step, by kind of model; for others what all tasks have in common."""


def _torch_side(config: experiment.Config) -> TorchSide:
    """The other side of a comparison. Raises TorchError where there is none for the task or the configuration."""
    if config.task not in TORCH:
        raise TorchError(
            f"--against=torch: there is a PyTorch reference for task {' and '.join(TORCH)}, not {config.task}"
        )
    torch_side.require()
    TORCH[config.task].check(config)
    return TORCH[config.task]


def run_bench(config: experiment.Config, steps: int, against: str | None, out: Path | None) -> dict[str, float]:
    """Measures a configuration and prints a report.

    Args:
        config: the configuration; its vocabulary size must be known.
        steps: how many are timed.
        against: `torch` to take the same steps in PyTorch; None for no comparison.
        out: a file for the figures, as JSON; None for none.

    Returns:
        The figures by name.

    Raises:
        ConfigError: if the size of the vocabulary is left to a tokenizer.
        TorchError: where PyTorch has no such step.
    """
    experiment.require_vocabulary(config, "a benchmark")
    task, theirs = registry.of(config), _torch_side(config) if against else None
    current = setup.set_up(config)
    batch = random_batch(task.batch_spec(config), config.seed)
    say(f"compiling the training step for {jax.device_count()} device(s) ({jax.default_backend()}) ...")
    stepper = measure.Stepper(current, batch)
    say(f"compiled in {stepper.compile_seconds:.0f} s")
    figures = _side_by_side(theirs, current, stepper, batch, steps) if theirs else _alone(stepper, steps)
    pairs = config.train.batch_size
    figures["pairs_per_second"] = pairs / figures["step_seconds"]
    figures["compile_seconds"] = stepper.compile_seconds
    say(f"training step     {figures['step_seconds']:.3f} s, {figures['pairs_per_second']:.2f} pairs/s (median)")
    if against:
        _say_ratio(figures, pairs)
    figures |= _share_of_peak(config, stepper, figures["step_seconds"], steps)
    figures |= stepper.memory_gib()
    say("memory            " + ", ".join(f"{n} {v:.2f}" for n, v in stepper.memory_gib().items()))
    say("parts, each by itself:")
    of_parts = PARTS.get(task.model, measure.common_parts)
    for part in of_parts(current, stepper.state, stepper.batch, max(steps // 2, 3)):
        figures[f"part/{part.name.replace(',', '').replace(' ', '_')}"] = part.seconds
        share = part.seconds / figures["step_seconds"]
        say(f"  {part.name:<24}{part.seconds:8.3f} s  {share:5.0%} of a step")
    if out is not None:
        out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return figures


def _alone(stepper: measure.Stepper, steps: int) -> dict[str, float]:
    return {"step_seconds": measure.seconds_of(stepper, steps)}


def _side_by_side(
    side: TorchSide, current: Run, stepper: measure.Stepper, batch: HostBatch, steps: int
) -> dict[str, float]:
    """Both in turn, round by round, so that a machine whose speed drifts is as slow for one as for the other.

    Each round starts with a step that is not counted: a process that sat idle first gets its memory back.
    """
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    with TorchProcess(side.job(current.config, stepper.state, batch)) as theirs:
        ours = side.said(current, stepper.state, stepper.batch)
        difference = _difference(ours, theirs.ask("said"))
        say(f"same weights      {' and '.join(ours)} differ by at most {difference:.1e}")
        if not difference < 1e-4:
            raise TorchError(f"the two models disagree by {difference:.1e}: a comparison would mean nothing")
        for number in range(ROUNDS):
            times["ours"].append(measure.seconds_of(stepper, steps))
            theirs.ask("step")
            times["theirs"].append(statistics.median(theirs.ask("step") for _ in range(steps)))
            say(
                f"  round {number + 1}/{ROUNDS}, {steps} steps each: ours {times['ours'][-1]:.3f} s, "
                f"PyTorch {times['theirs'][-1]:.3f} s"
            )
    ratios = [theirs / ours for ours, theirs in zip(times["ours"], times["theirs"], strict=True)]
    return {
        "difference": difference,
        "step_seconds": statistics.median(times["ours"]),
        "torch_step_seconds": statistics.median(times["theirs"]),
        "speed_ratio": statistics.median(ratios),
        "speed_ratio_lowest": min(ratios),
        "speed_ratio_highest": max(ratios),
    }


def _difference(ours: OnDevices, theirs: HostBatch) -> float:
    """The largest difference of a number that both sides say; NaN if any is."""
    return float(np.max([np.abs(np.asarray(ours[name]) - theirs[name]).max() for name in ours]))


def _say_ratio(figures: dict[str, float], pairs: int) -> None:
    say(f"PyTorch           {figures['torch_step_seconds']:.3f} s, {pairs / figures['torch_step_seconds']:.2f} pairs/s")
    low, high = figures["speed_ratio_lowest"], figures["speed_ratio_highest"]
    ratio = figures["speed_ratio"]
    say(f"ratio             {ratio:.2f} times PyTorch's pairs/s (round by round: {low:.2f} to {high:.2f})")


def _share_of_peak(config: experiment.Config, stepper: measure.Stepper, seconds: float, steps: int) -> dict[str, float]:
    peak, flops = measure.matmul_peak(config.model.dtype, steps), stepper.flops()
    share = flops / seconds / peak
    say(
        f"arithmetic        {flops / 1e9:.1f} GFLOP a step and device, {share:.0%} of the {peak / 1e9:.0f} GFLOP/s "
        f"of a {measure.PEAK_SIZE}-wide {config.model.dtype} product"
    )
    return {"flops": flops, "matmul_peak_flops_per_second": peak, "share_of_peak": share}
