"""The compiled training steps of a run: one for each kind of batch, which the batch's fields and shapes tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from wenlan_jax.core.state import TrainState
from wenlan_jax.parallel import distributed
from wenlan_jax.parallel.console import say
from wenlan_jax.tasks.run import Run
from wenlan_jax.training import model_flops as flops
from wenlan_jax.training import setup

DeviceBatch = Mapping[str, jax.Array]
Signature = tuple[tuple[str, tuple[int, ...], str], ...]
"""Name, shape and dtype of every field."""


class Program(NamedTuple):
    """A compiled step.

    Attributes:
        step: from state and batch to state and metrics; it consumes its state.
        model_flops: the model FLOPs of one step (see `model_flops.py`); NaN if they are not counted.
    """

    step: Callable[[TrainState, DeviceBatch], tuple[TrainState, dict[str, jax.Array]]]
    model_flops: float


class Programs:
    """The compiled steps of a run, by the kind of their batch.

    BriVL has one kind; the single tower has one an objective and bucket of lengths.

    Args:
        current: the run.
    """

    def __init__(self, current: Run) -> None:
        self._current = current
        self._compiled: dict[Signature, Program] = {}

    def __contains__(self, batch: DeviceBatch) -> bool:
        return signature(batch) in self._compiled

    def __getitem__(self, batch: DeviceBatch) -> Program:
        return self._compiled[signature(batch)]

    def compile(self, batch: dict[str, jax.Array]) -> None:
        """Compiles the step for batches like this one. All processes meet it at the same step."""
        kind = self._current.recipe.task.kind_of(batch)
        say(f"compiling the training step{' for ' + kind if kind else ''}, once a start ...")
        began = time.perf_counter()
        compiled: Any = setup.compile_step(self._current, batch)
        # The collectives of the first step do not wait for a slower compiler.
        distributed.barrier(f"compiled {len(self._compiled)}")
        model_flops, reason = flops.counted(lambda: flops.of_step(self._current.config, batch))
        if reason:
            say(f"the FLOPs of this step could not be counted, so neither they nor the MFU are told ({reason})")
        self._compiled[signature(batch)] = Program(compiled, model_flops)
        say(f"compiled in {time.perf_counter() - began:.0f} s")


def signature(batch: DeviceBatch) -> Signature:
    """Says what a program is compiled for: name, shape and dtype of every field."""
    return tuple(sorted((name, array.shape, str(array.dtype)) for name, array in batch.items()))
