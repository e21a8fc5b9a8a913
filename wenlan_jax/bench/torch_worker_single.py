"""The PyTorch reference of the single tower in a process of its own, see `torch_worker`. Imports no jax."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from wenlan_jax.bench.torch_worker import TorchError, use_all_cores


@dataclasses.dataclass(frozen=True)
class SingleJob:
    """What the worker trains.

    Attributes:
        sizes: the fields of `UniterSizes`.
        weights: by public name.
        inputs: the fields of `torch_single.Inputs`.
        labels: (rows, tokens), -1 where no word is to be guessed.
        places: (rows, words), those where one is.
        learning_rate: of AdamW.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of AdamW.
        clip_norm: of the gradients; 0: not clipped.
    """

    sizes: dict[str, Any]
    weights: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    labels: np.ndarray
    places: np.ndarray
    learning_rate: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_norm: float

    def start(self) -> SingleStep:
        """Builds the worker's model, in the worker's process."""
        return SingleStep(self)


class SingleStep:
    """The reference's training step on masked words.

    Args:
        job: what it trains.

    Raises:
        TorchError: if the weights do not fit.
    """

    def __init__(self, job: SingleJob) -> None:
        from wenlan_jax.convert.reference import torch_single

        self.torch, self.job = use_all_cores(), job
        self.model = torch_single.Uniter(torch_single.UniterSizes(**job.sizes)).train()
        tensors = {name: self.torch.from_numpy(np.array(value)) for name, value in job.weights.items()}
        missing, unexpected = self.model.load_state_dict(tensors, strict=False)
        strangers = [name for name in missing if not name.startswith(("rank_output.", "vqa_output.", "region_class"))]
        if strangers or unexpected:
            raise TorchError(f"weights do not fit: {strangers[:3]} missing, {unexpected[:3]} unknown")
        options = {"lr": job.learning_rate, "betas": job.betas, "eps": job.eps}
        self.optimizer = self.torch.optim.AdamW(self._groups(), **options, fused=True)  # the fastest of its kinds
        inputs = {name: self.torch.from_numpy(value) for name, value in job.inputs.items()}
        self.inputs = torch_single.Inputs(**inputs)
        self.labels, self.places = self.torch.from_numpy(job.labels), self.torch.from_numpy(job.places)

    def _groups(self) -> list[dict[str, Any]]:
        """Biases and the scales of norms do not decay."""
        norms = {id(p) for m in self.model.modules() if isinstance(m, self.torch.nn.LayerNorm) for p in m.parameters()}
        decayed: list[Any] = []
        plain: list[Any] = []
        for name, parameter in self.model.named_parameters():
            (plain if name.endswith("bias") or id(parameter) in norms else decayed).append(parameter)
        return [{"params": decayed, "weight_decay": self.job.weight_decay}, {"params": plain, "weight_decay": 0.0}]

    def step(self) -> float:
        """Takes one training step and returns its seconds."""
        began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.mlm_loss(self.inputs, self.labels).backward()
        if self.job.clip_norm > 0:
            self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.job.clip_norm)
        self.optimizer.step()
        return time.perf_counter() - began

    def said(self) -> dict[str, np.ndarray]:
        """Returns the pooled state and the logits of the words to guess, in evaluation mode."""
        self.model.eval()
        with self.torch.no_grad():
            text, _, pooled = self.model.encode(self.inputs)
            places = self.places.unsqueeze(-1).expand(-1, -1, text.shape[-1])
            words = self.model.words(text.gather(1, places))
        self.model.train()
        return {"pooled": pooled.numpy(), "words": words.numpy()}
