"""Runs exported weights in the PyTorch modules that exports carry, on the batch that parity is measured with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wenlan_jax.convert import parity
from wenlan_jax.convert.architecture import architecture_of
from wenlan_jax.tasks import experiment


def run(config: experiment.Config, state: Mapping[str, np.ndarray], batch: parity.FixedBatch) -> parity.Embeddings:
    """Embeddings by `torch_modules.WenLan` with `state`, which must have exactly its keys."""
    return embed(module_with(architecture_of(config), state), batch)


def module_with(architecture: Any, state: Mapping[str, np.ndarray]) -> Any:
    """The module of an architecture, see `filled`."""
    from wenlan_jax.convert.torch_modules import WenLan

    return filled(lambda: WenLan(architecture), state)


def filled(make: Callable[[], Any], state: Mapping[str, np.ndarray], absent: tuple[str, ...] = ()) -> Any:
    """Builds a module with `state` as its weights, not copied where they are float32, in evaluation mode; float32.

    Args:
        make: makes the module.
        state: arrays by key.
        absent: what keys begin with that `state` need not have; these weights have no values, so nothing may use them.

    Returns:
        The module.

    Raises:
        RuntimeError: for any other key that is missing, and for one that the module does not have.
    """
    import torch

    with torch.device("meta"):  # shapes only: the weights follow
        module = make()
    with warnings.catch_warnings():
        # Mapped arrays are read-only, which torch warns of; they are only read here.
        warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
        tensors = {key: torch.as_tensor(value) for key, value in state.items()}
    for key, value in module.state_dict().items():
        if absent and key.startswith(absent):
            tensors[key] = value
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.float().eval()


def embed(module: Any, batch: parity.FixedBatch) -> parity.Embeddings:
    """Embeddings by a module with `normalise`, `image_tower` and `text_tower`, float32, without gradients."""
    import torch

    boxes = () if batch.boxes is None else (torch.tensor(batch.boxes), torch.tensor(batch.box_mask))
    with torch.no_grad():
        pixels = module.normalise(torch.tensor(batch.image))
        image = module.encode_image(pixels, *boxes)
        text = module.encode_text(torch.tensor(batch.token_ids.astype(np.int64)), torch.tensor(batch.token_mask))
    return parity.Embeddings(image.numpy(), text.numpy())
