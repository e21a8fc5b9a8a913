"""The PyTorch reference in a process of its own, so that neither framework's threads or allocator disturb the other.

Imports no jax. `TorchProcess` starts the worker and asks it for one training step at a time.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from wenlan_jax.util.errors import WenlanError


class TorchError(WenlanError, RuntimeError):
    """PyTorch is not installed, or the reference cannot follow the configuration."""


@runtime_checkable
class Worker(Protocol):
    """A model of PyTorch with its batch."""

    def step(self) -> float:
        """Takes one training step and returns its seconds."""

    def said(self) -> dict[str, np.ndarray]:
        """Returns what the model makes of the batch in evaluation mode, to compare both sides by."""


@runtime_checkable
class AnyJob(Protocol):
    """What a worker process is started with."""

    def start(self) -> Worker:
        """Starts the worker, in the process of its own."""


def use_all_cores() -> ModuleType:
    """Imports torch and has it use every core."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    return torch


@dataclasses.dataclass(frozen=True)
class StepJob:
    """What the worker trains.

    Attributes:
        sizes: of the model.
        bert: the configuration of its BERT.
        weights: by official name.
        batch: one batch.
        learning_rate: of Adam.
        weight_decay: of Adam.
    """

    sizes: dict[str, Any]
    bert: dict[str, Any]
    weights: dict[str, np.ndarray]
    batch: dict[str, np.ndarray]
    learning_rate: float
    weight_decay: float

    def start(self) -> TorchStep:
        """Builds the worker's model, in the worker's process."""
        return TorchStep(self)


class TorchStep:
    """The reference's training step.

    Args:
        job: what it trains.

    Raises:
        TorchError: if the weights do not fit.
    """

    def __init__(self, job: StepJob) -> None:
        from transformers import BertConfig

        from wenlan_jax.convert.reference import torch_brivl

        torch = self.torch = use_all_cores()
        sizes = torch_brivl.BriVLSizes(text=BertConfig(**job.bert), **job.sizes)
        self.model = torch_brivl.BriVL(sizes).train()
        weights = {name: torch.from_numpy(np.array(value)) for name, value in job.weights.items()}
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        known = ("_mom.", ".pooler.", ".classifier.")
        strangers = [name for name in missing if not any(part in name for part in known)]
        if strangers or unexpected:
            raise TorchError(f"weights do not fit: {strangers[:3]} missing, {unexpected[:3]} unknown")
        self.model.synchronize()
        options = {"lr": job.learning_rate, "weight_decay": job.weight_decay}
        self.optimizer = torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], **options)
        self.batch = torch_brivl.Batch(**{name: torch.from_numpy(value) for name, value in job.batch.items()})

    def step(self) -> float:
        """Takes one training step and returns its seconds."""
        began = time.perf_counter()
        self.model.training_step(self.batch, self.optimizer)
        return time.perf_counter() - began

    def said(self) -> dict[str, np.ndarray]:
        """Returns the embeddings of the batch in evaluation mode."""
        self.model.eval()
        with self.torch.no_grad():
            image, text = self.model.embed(self.batch)
        self.model.train()
        return {"image": image.numpy(), "text": text.numpy()}


def serve(connection: Connection, job: AnyJob) -> None:
    """Answers the names of methods of `Worker` until the other side closes; the loop of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    try:
        worker = job.start()
        connection.send(None)
    except Exception as error:
        connection.send(TorchError(f"{type(error).__name__}: {error}"))
        return
    while True:
        try:
            connection.send(getattr(worker, connection.recv())())
        except EOFError:
            return


class TorchProcess:
    """A worker process. A context manager: leaving it ends the process.

    Args:
        job: what it is started with.

    Raises:
        TorchError: if it cannot be started.
    """

    def __init__(self, job: AnyJob) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, job), daemon=True)
        self.process.start()
        other.close()
        fault = self._receive()
        if fault is not None:
            raise fault

    def _receive(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            raise TorchError("the PyTorch process ended; is there enough memory for both?") from None

    def ask(self, method: str) -> Any:
        """Returns what the worker's `method` returns."""
        self.connection.send(method)
        return self._receive()

    def __enter__(self) -> TorchProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()
        self.process.join(timeout=10)
        self.process.terminate()
