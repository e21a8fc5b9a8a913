"""What fits: the cheapest choice of layers to compute again, and the largest batch with it.

A compilation of the large configurations takes minutes, so few are made: the choices in the order of the arithmetic
they add, which is counted without compiling, and then batches from a straight line through the last two.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

from wenlan_jax.parallel.console import say
from wenlan_jax.plan import planner, roofline
from wenlan_jax.plan.topology import Topology
from wenlan_jax.tasks import remat
from wenlan_jax.tasks.experiment import Config
from wenlan_jax.util.errors import WenlanError

MOST_BATCHES = 6
"""Batches tried after the first that fits."""

GROWTH = 2
"""No batch is tried that is more than this times the last one: activations of another size may lie differently."""

ACCUMULATIONS = (1, 2, 4, 8, 16)


class NothingFits(WenlanError, RuntimeError):  # noqa: N818
    """No batch and no choice of recomputation fits the memory."""


def with_batch(config: Config, batch_size: int, accumulation: int) -> Config:
    """Sets batch and micro-batches of a configuration.

    Args:
        config: the configuration.
        batch_size: pairs a step.
        accumulation: micro-batches a step.

    Returns:
        The changed configuration.
    """
    train = dataclasses.replace(config.train, batch_size=batch_size, accumulation=accumulation)
    return dataclasses.replace(config, train=train)


def search(config: Config, topology: Topology, shares: roofline.Shares) -> tuple[Config, planner.DevicePlan]:
    """Finds the cheapest recomputation that fits, and the largest batch with it.

    Args:
        config: the configuration.
        topology: the devices.
        shares: assumed shares of their peaks.

    Returns:
        The configuration, and its plan.

    Raises:
        NothingFits: if no batch and no choice of recomputation fits.
    """

    def plan(candidate: Config) -> planner.DevicePlan:
        train = candidate.train
        micro = f" in {train.accumulation} micro-batches" if train.accumulation > 1 else ""
        say(f"compiling batch {train.batch_size}{micro}, recomputing {remat.text(candidate)} ...")
        found = planner.make(candidate, topology, shares)
        say(
            f"  {'fits' if found.fits else 'does not fit'}: {found.needed / 2**30:.2f} of "
            f"{found.available / 2**30:.2f} GiB, compiled in {found.compile_seconds:.0f} s"
        )
        return found

    chosen, first = _cheapest(config, topology, plan)
    unit = batch_unit(chosen, topology) * chosen.train.accumulation
    plans = {first.batch_size: first}

    def bytes_at(batch_size: int) -> float:
        plans[batch_size] = plan(with_batch(chosen, batch_size, chosen.train.accumulation))
        found = plans[batch_size]
        return found.needed if found.fits else max(found.needed, found.available * (1 + 1e-9))

    best = largest(bytes_at, first.batch_size, first.needed, first.available, unit, sum(first.state.values()))
    return with_batch(chosen, best, chosen.train.accumulation), plans[best]


def _cheapest(
    config: Config, topology: Topology, plan: Callable[[Config], planner.DevicePlan]
) -> tuple[Config, planner.DevicePlan]:
    """The cheapest recomputation that fits the configured batch; more micro-batches only if none does."""
    for candidate in _candidates(config, topology):
        found = plan(candidate)
        if found.fits:
            return candidate, found
    raise NothingFits(
        f"batch {config.train.batch_size} does not fit {topology}, whatever is computed again and in however many "
        "micro-batches; use more devices, another mesh (--config.mesh.fsdp) or a smaller --batch"
    )


def _candidates(config: Config, topology: Topology) -> Iterator[Config]:
    candidates = [remat.with_choice(config, choice) for choice in remat.choices(config)]
    counted = [(planner.computed_flops(candidate), candidate) for candidate in candidates]
    counted.sort(key=lambda one: one[0])
    for flops, candidate in counted:
        say(f"recomputing {remat.text(candidate)}: {flops / counted[0][0] - 1:.1%} more FLOPs")
        yield candidate
    for count in ACCUMULATIONS:
        if count > config.train.accumulation and config.train.batch_size % (count * batch_unit(config, topology)) == 0:
            yield with_batch(counted[-1][1], config.train.batch_size, count)


def batch_unit(config: Config, topology: Topology) -> int:
    """Finds the smallest batch of one micro-batch: it divides over the mesh and into groups of batch normalisation."""
    current = planner.set_up(config, topology)
    ways = current.mesh.size // current.mesh.shape["tensor"]
    return math.lcm(ways, current.recipe.unit)


def largest(
    bytes_at: Callable[[int], float], start: int, needed: float, available: float, unit: int, fixed: float
) -> int:
    """Searches for the largest batch that fits.

    Args:
        bytes_at: bytes that a batch needs; more than `available` if it does not fit. At most MOST_BATCHES are tried.
        start: a batch that fits.
        needed: bytes that it needs.
        available: bytes there are.
        unit: the batch is a multiple of it.
        fixed: bytes that do not grow with the batch; the rest is taken to grow in proportion.

    Returns:
        The largest batch found to fit.
    """
    low, low_bytes, high = start, needed, math.inf
    slope = max(needed - fixed, 1.0) / start
    for _ in range(MOST_BATCHES):
        guess = low + (available - low_bytes) / slope
        guess = min(guess, low * GROWTH, high - unit)
        batch = max(int(guess) // unit * unit, (low // unit + 1) * unit)
        if batch >= high:
            return low
        found = bytes_at(batch)
        slope = max((found - low_bytes) / (batch - low), 1e-9 * slope)
        if found <= available:
            low, low_bytes = batch, found
        else:
            high = batch
    return low
