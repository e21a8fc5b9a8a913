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

from wenlan_jax import mesh as meshes
from wenlan_jax import metrics, momentum, optim, rngs, run, schema, trees
from wenlan_jax.losses import contrastive
from wenlan_jax.state import TrainState
from wenlan_jax.tasks import single
from wenlan_jax.tasks.contrast import OTHER
from wenlan_jax.tasks.towers import Towers

PEAK_SIZE = 2048
"""Side of the square matrices whose product measures the machine's peak."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a step, timed by itself: median seconds, and seconds to compile."""

    name: str
    seconds: float
    compile_seconds: float


def batch_shapes(config: schema.Config) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and dtype of each field of a training batch, as the loader makes it; for the single tower, `heaviest`."""
    if config.task in schema.SINGLE_TASKS:
        return {name: (leaf.shape, leaf.dtype.type) for name, leaf in heaviest(config).items()}
    size, side, length = config.train.batch_size, config.data.image_size, config.data.text_length
    regions = config.model.image.regions
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "image": ((size, side, side, 3), np.uint8),
        "token_ids": ((size, length), np.int32),
        "token_mask": ((size, length), np.bool_),
        "id": ((size,), np.int32),
    }
    if config.data.enlarge == "accelerator":
        shapes["image_sides"] = ((size, 2), np.int32)
    if regions.kind == "boxes":
        shapes["boxes"] = ((size, regions.boxes, 4), np.float32)
        shapes["box_mask"] = ((size, regions.boxes), np.bool_)
    return shapes


def heaviest(config: schema.Config) -> dict[str, Any]:
    """A batch of the single tower, abstract: of the largest bucket, and of the objective that needs most, words."""
    pretrain = config.pretrain
    objective: str = config.task
    if config.task == "mlmm":
        objective = "mlm" if "mlm" in pretrain.objectives else pretrain.objectives[0]
    sizes = (config.train.batch_size, pretrain.text_buckets[-1], pretrain.region_buckets[-1])
    shapes: dict[str, Any] = jax.eval_shape(lambda: single.example(config, objective, *sizes))
    return shapes


def random_batch(config: schema.Config, seed: int) -> dict[str, np.ndarray]:
    """Random pairs of the configuration's shapes, every text at full length."""
    rng = np.random.default_rng(seed)
    shapes = {name: shape for name, (shape, _) in batch_shapes(config).items()}
    batch: dict[str, np.ndarray] = {
        "image": rng.integers(0, 256, shapes["image"]).astype(np.uint8),
        "token_ids": rng.integers(0, config.model.text.bert.vocab_size, shapes["token_ids"]).astype(np.int32),
        "token_mask": np.ones(shapes["token_mask"], bool),
        "id": np.arange(config.train.batch_size, dtype=np.int32),
    }
    if "image_sides" in shapes:
        batch["image_sides"] = rng.integers(1, config.data.image_size + 1, shapes["image_sides"]).astype(np.int32)
    if "boxes" in shapes:
        corners = np.sort(rng.random((*shapes["boxes"][:2], 2, 2)), axis=2)
        batch["boxes"] = corners.reshape(shapes["boxes"]).astype(np.float32)
        batch["box_mask"] = np.ones(shapes["box_mask"], bool)
    return batch


def seconds_of(action: Callable[[], Any], repeats: int) -> float:
    """Median seconds of `action`, which must return only when its work is done; one call before is not counted."""
    action()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def matmul_peak(dtype: str, repeats: int) -> float:
    """FLOP/s of a square matrix product in `dtype` on the first device: what the machine can do at best."""
    side = jnp.ones((PEAK_SIZE, PEAK_SIZE), dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * PEAK_SIZE**3 / seconds_of(lambda: jax.block_until_ready(product(side)), repeats)


class Stepper:
    """The compiled training step with its state and one batch."""

    def __init__(self, current: run.Run, batch: dict[str, np.ndarray]) -> None:
        self.state: TrainState = run.fresh_state(current)
        self.batch = meshes.to_devices(current.mesh, batch)
        began = time.perf_counter()
        self.compiled = run.compile_step(current, self.batch)
        self.compile_seconds = time.perf_counter() - began

    def __call__(self) -> dict[str, jax.Array]:
        """One step, waited for."""
        self.state, found = self.compiled(self.state, self.batch)
        return jax.block_until_ready(found)

    def flops(self) -> float:
        """Floating-point operations of a step as the compiler counts them, on one device."""
        analysis = self.compiled.cost_analysis()
        return float((analysis or {}).get("flops", float("nan")))

    def memory_gib(self) -> dict[str, float]:
        """What the compiled step needs on a device, and the process's peak."""
        analysis = self.compiled.memory_analysis()
        found = metrics.memory_gib()
        if analysis is not None:
            found["step_arguments_gib"] = analysis.argument_size_in_bytes / 2**30
            found["step_temporaries_gib"] = analysis.temp_size_in_bytes / 2**30
        return found


def parts(current: run.Run, state: TrainState, batch: dict[str, jax.Array], repeats: int) -> list[Part]:
    """The parts of a step, each compiled and timed by itself; a fused step can be faster than their sum."""
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
        actions["key towers"] = (lambda s, b: recipe.task.targets(s, b, rng)[0], (state, prepared))
        queries = {name: state.banks[name].keys[0] for name in OTHER}
        actions["bank, both ways"] = (_bank(current.config, batch["id"]), (queries, state.banks))
        actions["momentum update"] = (
            lambda keys, params: momentum.update(keys, params, current.config.contrast.momentum),
            (state.momentum.params, {name: state.params[name] for name in OTHER}),
        )
    actions["optimiser"] = (
        lambda g, s, p: optim.apply(recipe.optimizer, g, s, p, jnp.float32(1e-4)),
        (trained, state.opt_state, trained),
    )
    return [timed(name, function, arguments, repeats) for name, (function, arguments) in actions.items()]


def _bank(config: schema.Config, ids: jax.Array) -> Callable[..., Any]:
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


def timed(name: str, function: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> Part:
    """A part by itself: compiled, then called with `arguments` so many times."""
    began = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - began
    run_once = functools.partial(compiled, *arguments)
    return Part(name, seconds_of(lambda: jax.block_until_ready(run_once()), repeats), compile_seconds)
