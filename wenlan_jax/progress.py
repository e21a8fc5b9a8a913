"""What a person sees while a run goes on: plain lines, with means over the steps since the last one."""

from __future__ import annotations

import time

import jax

from wenlan_jax import metrics, schema
from wenlan_jax.data import loader


def say(message: str) -> None:
    """One line for the person at the terminal, from the first process only."""
    if jax.process_index() == 0:
        print(message, flush=True)


class Meter:
    """Means of the metrics since the last log line, and the speed."""

    def __init__(self, config: schema.Config, first: int) -> None:
        self.config = config
        self.done = first
        self.values: list[dict[str, float]] = []
        self.waited = 0.0
        self.seconds = 0.0
        self.restart()

    def restart(self) -> None:
        """Leaves out of the speed what happened since the last step: compilation, evaluation, checkpoints."""
        self.since = time.perf_counter()

    def add(self, done: int, values: dict[str, float], batches: loader.Batches) -> dict[str, float] | None:
        """Takes in the metrics of one step; the line to log, where one is due."""
        now = time.perf_counter()
        self.seconds += now - self.since
        self.since = now
        self.values.append(values)
        if done % self.config.train.log_every and done != self.config.train.steps:
            return None
        line = {name: sum(v[name] for v in self.values) / len(self.values) for name in self.values[0]}
        waited, self.waited = batches.wait_seconds - self.waited, batches.wait_seconds
        line |= {
            "pairs_per_second": len(self.values) * self.config.train.batch_size / self.seconds,
            "data_wait_share": min(waited / self.seconds, 1.0),
            "replaced_records": float(batches.replaced),
            **metrics.memory_gib(),
        }
        self.values, self.seconds = [], 0.0
        return line

    def text(self, line: dict[str, float], done: int) -> str:
        """The log line for a person."""
        left = (self.config.train.steps - done) * self.config.train.batch_size / line["pairs_per_second"]
        memory = line.get("device_memory_gib", line["host_memory_gib"])
        return (
            f"step {done}/{self.config.train.steps}  loss {line['loss']:.3f} (chance {line['loss_reference']:.3f})  "
            f"{line['pairs_per_second']:.1f} pairs/s  data wait {line['data_wait_share']:.0%}  "
            f"memory {memory:.1f} GiB  {left:.0f} s left"
        )
