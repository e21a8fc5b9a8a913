"""What `wenlan bench` runs and prints."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import jax
import numpy as np

from wenlan_jax import run, schema
from wenlan_jax.bench import measure, torch_side
from wenlan_jax.bench.torch_worker import TorchError, TorchProcess
from wenlan_jax.config import ConfigError
from wenlan_jax.progress import say
from wenlan_jax.tasks.towers import Towers

ROUNDS = 3
"""Turns that each side gets in a comparison."""


def run_bench(config: schema.Config, steps: int, against: str | None, out: Path | None) -> dict[str, float]:
    """Measures `config`, prints a report and returns its figures by name; also writes them to `out` if given."""
    if config.model.text.bert.vocab_size == 0:
        raise ConfigError("model.text.bert.vocab_size: a benchmark has no tokenizer; give a number of rows")
    if against:
        torch_side.require()
        torch_side.check(config)
    current = run.set_up(config)
    batch = measure.random_batch(config, config.seed)
    say(f"compiling the training step for {jax.device_count()} device(s) ({jax.default_backend()}) ...")
    stepper = measure.Stepper(current, batch)
    say(f"compiled in {stepper.compile_seconds:.0f} s")
    figures = _side_by_side(current, stepper, batch, steps) if against else _alone(stepper, steps)
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
    for part in measure.parts(current, stepper.state, stepper.batch, max(steps // 2, 3)):
        figures[f"part/{part.name.replace(',', '').replace(' ', '_')}"] = part.seconds
        share = part.seconds / figures["step_seconds"]
        say(f"  {part.name:<24}{part.seconds:8.3f} s  {share:5.0%} of a step")
    if out is not None:
        out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return figures


def _alone(stepper: measure.Stepper, steps: int) -> dict[str, float]:
    return {"step_seconds": measure.seconds_of(stepper, steps)}


def _side_by_side(
    current: run.Run, stepper: measure.Stepper, batch: dict[str, np.ndarray], steps: int
) -> dict[str, float]:
    """Both in turn, round by round, so that a machine whose speed drifts is as slow for one as for the other.

    Each round starts with a step that is not counted: a process that sat idle first gets its memory back.
    """
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    with TorchProcess(torch_side.job(current.config, stepper.state, batch)) as theirs:
        difference = _difference(current, stepper, theirs.ask("embeddings"))
        say(f"same weights      embeddings differ by at most {difference:.1e}")
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
        "embedding_difference": difference,
        "step_seconds": statistics.median(times["ours"]),
        "torch_step_seconds": statistics.median(times["theirs"]),
        "speed_ratio": statistics.median(ratios),
        "speed_ratio_lowest": min(ratios),
        "speed_ratio_highest": max(ratios),
    }


def _difference(current: run.Run, stepper: measure.Stepper, other: dict[str, np.ndarray]) -> float:
    """The largest difference of an embedding's coordinate, in evaluation mode."""
    towers, state = Towers(current.config, current.mesh), stepper.state

    def embed(params: object, stats: object, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        prepared = towers.prepare(batch, None)
        image = towers.embed_images(params, stats, prepared, None)[0].embedding
        return {"image": image, "text": towers.embed_texts(params, prepared, None).embedding}

    ours = jax.jit(embed)(state.params, state.batch_stats, stepper.batch)
    return max(float(np.abs(np.asarray(ours[name]) - other[name]).max()) for name in ours)


def _say_ratio(figures: dict[str, float], pairs: int) -> None:
    say(f"PyTorch           {figures['torch_step_seconds']:.3f} s, {pairs / figures['torch_step_seconds']:.2f} pairs/s")
    low, high = figures["speed_ratio_lowest"], figures["speed_ratio_highest"]
    ratio = figures["speed_ratio"]
    say(f"ratio             {ratio:.2f} times PyTorch's pairs/s (round by round: {low:.2f} to {high:.2f})")


def _share_of_peak(config: schema.Config, stepper: measure.Stepper, seconds: float, steps: int) -> dict[str, float]:
    peak, flops = measure.matmul_peak(config.model.dtype, steps), stepper.flops()
    share = flops / seconds / peak
    say(
        f"arithmetic        {flops / 1e9:.1f} GFLOP a step and device, {share:.0%} of the {peak / 1e9:.0f} GFLOP/s "
        f"of a {measure.PEAK_SIZE}-wide {config.model.dtype} product"
    )
    return {"flops": flops, "matmul_peak_flops_per_second": peak, "share_of_peak": share}
