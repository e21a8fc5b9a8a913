"""Timing of the training step and of its parts on random pairs."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wenlan_jax.core import momentum, optim, rngs, trees
from wenlan_jax.core.state import TrainState
from wenlan_jax.core.task import MicroPairs
from wenlan_jax.losses import contrastive
from wenlan_jax.monitoring import metrics_file
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.tasks import experiment
from wenlan_jax.tasks.run import Run
from wenlan_jax.tasks.two_tower.directions import OTHER
from wenlan_jax.tasks.two_tower.towers import Towers
from wenlan_jax.training import setup

PEAK_SIZE = 2048
"""Side of the square matrices whose product measures the machine's peak."""


@dataclasses.dataclass(frozen=True)
class TimedPart:
    """One part of a step, timed by itself.

    Attributes:
        name: of the part.
        seconds: the median of its times.
        compile_seconds: how long it took to compile.
    """

    name: str
    seconds: float
    compile_seconds: float


def seconds_of(action: Callable[[], Any], repeats: int) -> float:
    """Times an action; one call before is not counted.

    Args:
        action: must return only when its work is done.
        repeats: how often it is timed.

    Returns:
        Median seconds.
    """
    action()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def matmul_peak(dtype: str, repeats: int) -> float:
    """Measures the FLOP/s of a square matrix product on the first device: what the machine can do at best.

    Args:
        dtype: of the matrices.
        repeats: how often it is timed.

    Returns:
        Floating-point operations a second.
    """
    side = jnp.ones((PEAK_SIZE, PEAK_SIZE), dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * PEAK_SIZE**3 / seconds_of(lambda: jax.block_until_ready(product(side)), repeats)


class Stepper:
    """The compiled training step with its state and one batch.

    Args:
        current: the run.
        batch: the rows of this process.
    """

    def __init__(self, current: Run, batch: dict[str, np.ndarray]) -> None:
        self.state: TrainState = setup.fresh_state(current)
        self.batch = meshes.to_devices(current.mesh, batch)
        began = time.perf_counter()
        self.compiled = setup.compile_step(current, self.batch)
        self.compile_seconds = time.perf_counter() - began

    def __call__(self) -> dict[str, jax.Array]:
        """Takes one step and waits for it."""
        self.state, found = self.compiled(self.state, self.batch)
        return jax.block_until_ready(found)

    def flops(self) -> float:
        """Counts the floating-point operations of a step as the compiler does, on one device."""
        analysis = self.compiled.cost_analysis()
        return float((analysis or {}).get("flops", float("nan")))

    def memory_gib(self) -> dict[str, float]:
        """Measures what the compiled step needs on a device, and the process's peak."""
        analysis = self.compiled.memory_analysis()
        found = metrics_file.memory_gib()
        if analysis is not None:
            found["step_arguments_gib"] = analysis.argument_size_in_bytes / 2**30
            found["step_temporaries_gib"] = analysis.temp_size_in_bytes / 2**30
        return found


def parts(current: Run, state: TrainState, batch: dict[str, jax.Array], repeats: int) -> list[TimedPart]:
    """Times the parts of a step of two towers, each compiled by itself; a fused step can be faster than their sum.

    Args:
        current: the run.
        state: its state.
        batch: on the devices.
        repeats: how often each part is timed.

    Returns:
        The parts.
    """
    towers, recipe = Towers(current.config, current.mesh), current.recipe
    rng = rngs.stream(state.rng, "bench", 0)
    trained, frozen = trees.split(state.params, recipe.is_trained)

    def image(part: Any, prepared: Any) -> jax.Array:
        params = trees.merge(part, frozen)
        return towers.embed_images(params, state.batch_stats, prepared, rng)[0].embedding[:, 0].sum()

    def text(part: Any, prepared: Any) -> jax.Array:
        return towers.embed_texts(trees.merge(part, frozen), prepared, rng).embedding[:, 0].sum()

    prepare = jax.jit(lambda b: towers.prepare(b, rng))
    prepared = prepare(batch)
    actions: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "jitter and normalise": (lambda b: towers.prepare(b, rng), (batch,)),
        "image tower, both ways": (jax.grad(image), (trained, prepared)),
        "text tower, both ways": (jax.grad(text), (trained, prepared)),
    }
    if state.momentum is not None:
        actions["key towers"] = (lambda s, b: recipe.task.encode_keys(s, b, rng)[0], (state, prepared))
        queries = {name: state.banks[name].keys[0] for name in OTHER}
        actions["bank, both ways"] = (_bank(current.config, batch["id"]), (queries, state.banks))
        actions["momentum update"] = (
            lambda keys, params: momentum.update(keys, params, current.config.contrast.momentum),
            (state.momentum.params, {name: state.params[name] for name in OTHER}),
        )
    found = [timed(name, function, arguments, repeats) for name, (function, arguments) in actions.items()]
    return [*found, optimiser(current, state, repeats)]


def common_parts(current: Run, state: TrainState, batch: dict[str, jax.Array], repeats: int) -> list[TimedPart]:
    """Times the parts that the step of every task has: preparation, loss with its gradient, optimiser.

    Args:
        current: the run.
        state: its state.
        batch: on the devices.
        repeats: how often each part is timed.

    Returns:
        The parts.
    """
    task, rng = current.recipe.task, rngs.stream(state.rng, "bench", 0)
    positions = jnp.arange(current.config.train.batch_size)
    trained, frozen = trees.split(state.params, current.recipe.is_trained)

    def loss(part: Any, state: TrainState, batch: Any) -> jax.Array:
        keys, _ = task.encode_keys(state, batch, rng)
        pairs = MicroPairs(positions, keys)
        return task.micro_loss(trees.merge(part, frozen), state, batch, pairs, keys, rng).loss

    prepare = jax.jit(lambda b: task.prepare(b, rng, positions))
    prepared = prepare(batch)
    return [
        timed("preparation", lambda b: task.prepare(b, rng, positions), (batch,), repeats),
        timed("loss, both ways", jax.grad(loss), (trained, state, prepared), repeats),
        optimiser(current, state, repeats),
    ]


def optimiser(current: Run, state: TrainState, repeats: int) -> TimedPart:
    """Times the update of the parameters that are trained.

    Args:
        current: the run.
        state: its state.
        repeats: how often it is timed.

    Returns:
        The part.
    """
    trained, _ = trees.split(state.params, current.recipe.is_trained)

    def update(gradient: Any, opt_state: Any, params: Any) -> Any:
        return optim.apply(current.recipe.optimizer, gradient, opt_state, params, jnp.float32(1e-4))

    return timed("optimiser", update, (trained, state.opt_state, trained), repeats)


def _bank(config: experiment.Config, ids: jax.Array) -> Callable[..., Any]:
    def loss(queries: dict[str, jax.Array], banks: Any) -> jax.Array:
        scale = jnp.float32(1 / config.contrast.temperature)
        losses = [
            contrastive.info_nce(
                queries[name],
                jax.lax.stop_gradient(queries[name]),
                ids,
                scale,
                bank=banks[other],
                mask_false_negatives=config.contrast.mask_false_negatives,
            ).loss
            for name, other in OTHER.items()
        ]
        return jnp.stack(losses).sum()

    return jax.grad(loss)


def timed(name: str, function: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> TimedPart:
    """Times a function by itself.

    Args:
        name: of the part.
        function: it is compiled first.
        arguments: what it is called with.
        repeats: how often it is timed.

    Returns:
        Median seconds, and seconds to compile.
    """
    began = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - began
    run_once = functools.partial(compiled, *arguments)
    return TimedPart(name, seconds_of(lambda: jax.block_until_ready(run_once()), repeats), compile_seconds)
