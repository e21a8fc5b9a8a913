"""What a person sees while a run goes on: plain lines, with means over the steps since the last one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import jax

from wenlan_jax.data import loader
from wenlan_jax.monitoring import accelerators, metrics_file
from wenlan_jax.monitoring.time_ledger import WAIT, TimeLedger
from wenlan_jax.tasks import experiment


class Meter:
    """Means of the metrics since the last log line, and the speed.

    A metric that not every step has, as those of one objective among several, is averaged over the steps that have it.

    Args:
        config: the configuration.
        first: the steps done when the loop begins.
        ledger: the account of time, for the wait for data.
    """

    def __init__(self, config: experiment.Config, first: int, ledger: TimeLedger) -> None:
        self.config = config
        self.ledger = ledger
        self.done = first
        self.values: list[dict[str, float]] = []
        self.model_flops = 0.0
        self.waited = 0.0
        self.seconds = 0.0
        self.restart()

    def restart(self) -> None:
        """Leaves out of the speed what happened since the last step: compilation, evaluation, checkpoints."""
        self.since, self.waited_before = time.perf_counter(), self.ledger.seconds[WAIT]

    def add(
        self, done: int, values: dict[str, float], model_flops: float, batches: loader.Batches
    ) -> dict[str, float] | None:
        """Takes in the metrics of one step.

        Args:
            done: how many steps are done.
            values: its metrics.
            model_flops: its model FLOPs over all devices.
            batches: the data, for the replaced records.

        Returns:
            The line to log, where one is due: means, `pairs_per_second`, `data_wait_share`, MFU and memory.
        """
        now = time.perf_counter()
        self.seconds += now - self.since
        self.waited += self.ledger.seconds[WAIT] - self.waited_before
        self.since, self.waited_before = now, self.ledger.seconds[WAIT]
        self.values.append(values)
        self.model_flops += model_flops
        if done % self.config.train.log_every and done != self.config.train.steps:
            return None
        line = _means(self.values)
        line |= {
            "pairs_per_second": len(self.values) * self.config.train.batch_size / self.seconds,
            "data_wait_share": max(0.0, min(self.waited / self.seconds, 1.0)),
            "replaced_records": float(batches.replaced),
            **_utilisation(self.model_flops / self.seconds),
            **metrics_file.memory_gib(),
        }
        self.values, self.model_flops, self.seconds, self.waited = [], 0.0, 0.0, 0.0
        return line

    def text(self, line: dict[str, float], done: int) -> str:
        """Writes a log line for a person.

        Args:
            line: what `add` gave.
            done: how many steps are done.

        Returns:
            The line.
        """
        left = (self.config.train.steps - done) * self.config.train.batch_size / line["pairs_per_second"]
        utilisation = f"  MFU {line['mfu']:.1%}" if "mfu" in line else ""
        chance = f" (chance {line['loss_reference']:.3f})" if "loss_reference" in line else ""
        memory = line.get("device_memory_gib", line["host_memory_gib"])
        return (
            f"step {done}/{self.config.train.steps}  loss {line['loss']:.3f}{chance}  "
            f"{line['pairs_per_second']:.1f} pairs/s{utilisation}  data wait {line['data_wait_share']:.0%}  "
            f"memory {memory:.1f} GiB  {left:.0f} s left"
        )


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric over the steps that have it, in the order in which they came."""
    found: dict[str, list[float]] = {}
    for one in values:
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return {name: sum(of) / len(of) for name, of in found.items()}


def _utilisation(flops_per_second: float) -> dict[str, float]:
    """Model FLOP/s of a device, and their share of its datasheet's dense bfloat16 peak, where these are known."""
    if math.isnan(flops_per_second):
        return {}
    rate = flops_per_second / jax.device_count()
    device = accelerators.find(jax.local_devices()[0].device_kind)
    return {"model_flops_per_second": rate} | ({} if device is None else {"mfu": rate / device.flops})
