"""Where metrics go besides `metrics.jsonl`: TensorBoard and Weights & Biases, both optional.

Only the first process writes. What is written is computed by all processes alike, so that no computation waits for a
process that takes no part in it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import jax

from wenlan_jax.config import sections
from wenlan_jax.monitoring import metrics_file
from wenlan_jax.tasks import experiment
from wenlan_jax.util import atomic_files, json_files
from wenlan_jax.util.errors import WenlanError

WANDB_ID = "wandb_id.txt"
"""In the work directory: the run of Weights & Biases that all starts of a run go on with."""

_ID = re.compile(rb"[0-9a-z]+\n?")


class TelemetryError(WenlanError, RuntimeError):
    """A writer that was asked for cannot be had."""


@runtime_checkable
class MetricsBackend(Protocol):
    """A place for metrics."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds flat metrics of one step."""
        ...

    def close(self) -> None:
        """Writes what is left."""
        ...


def check(settings: sections.TelemetryConfig) -> None:
    """Checks that the libraries that are asked for are installed.

    Args:
        settings: the section `telemetry` of the configuration.

    Raises:
        TelemetryError: for one that is not.
    """
    if settings.tensorboard == "on" and not importlib.util.find_spec("tensorboardX"):
        raise TelemetryError(
            "telemetry.tensorboard='on' needs tensorboardX: pip install 'wenlan_jax[tensorboard]', or set 'off'"
        )
    if settings.wandb != "off" and not importlib.util.find_spec("wandb"):
        raise TelemetryError(
            f"telemetry.wandb={settings.wandb!r} needs wandb: pip install 'wenlan_jax[wandb]', or set 'off'"
        )


class TensorBoard:
    """Writes event files in `workdir`/tensorboard.

    Args:
        workdir: the work directory of the run.
        step: the step that the run goes on from; what a killed run wrote after it is marked as undone.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one scalar a metric."""
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the event file."""
        self._board.close()


class WeightsAndBiases:
    """Writes one run of Weights & Biases for all starts of a run; offline it lies in `workdir`/wandb.

    Steps are an ordinary field and the axis of all curves: the library's own counter cannot go back, as it must after
    a kill.

    Args:
        config: the configuration.
        workdir: the work directory of the run.

    Raises:
        TelemetryError: if the service cannot be had.
    """

    def __init__(self, config: experiment.Config, workdir: Path) -> None:
        import wandb

        place = workdir / WANDB_ID
        if not _ID.fullmatch(place.read_bytes() if place.is_file() else b""):
            json_files.make_way(place)
            atomic_files.write(place, f"{secrets.token_hex(4)}\n".encode())
        settings = config.telemetry
        mode: Any = settings.wandb  # wandb's own type is a choice of words
        try:
            self._run: Any = wandb.init(
                project=settings.wandb_project,
                mode=mode,
                dir=str(workdir),
                id=place.read_text().strip(),
                resume="allow",
                name=workdir.absolute().name,
                config=dataclasses.asdict(config),
                settings=wandb.Settings(console="off", silent=True),
            )
        except (wandb.errors.Error, OSError) as error:
            raise TelemetryError(
                f"telemetry.wandb={settings.wandb!r}: {error}. Log in with `wandb login`, or set 'offline' or 'off'"
            ) from error
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one row; what is not finite is left out."""
        self._run.log({"step": step, **{name: value for name, value in metrics.items() if math.isfinite(value)}})

    def close(self) -> None:
        """Waits until the rows have left."""
        self._run.finish()


class Writers:
    """Writes to all places that a configuration asks for; in a process that is not the first, to none.

    A context manager, which closes them.

    Args:
        config: the configuration.
        workdir: the work directory of the run.
        step: the step that the run goes on from.
    """

    def __init__(self, config: experiment.Config, workdir: Path, step: int) -> None:
        self._writers: list[MetricsBackend] = []
        if jax.process_index() > 0:
            return
        settings = config.telemetry
        self._writers.append(metrics_file.MetricsWriter(workdir, step))
        if settings.tensorboard == "on" or (
            settings.tensorboard == "auto" and importlib.util.find_spec("tensorboardX")
        ):
            self._writers.append(TensorBoard(workdir, step))
        if settings.wandb != "off":
            self._writers.append(WeightsAndBiases(config, workdir))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds flat metrics of one step everywhere."""
        for writer in self._writers:
            writer.write(step, metrics)

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.close()
