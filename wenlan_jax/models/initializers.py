"""Initial values that follow the networks the papers started from.

Flax and PyTorch start their layers differently. A run from scratch should not depend on the framework, so the
distributions of the PyTorch layers are written here once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.nn.initializers import Initializer, normal, variance_scaling
from jax.typing import DTypeLike

torch_linear_kernel: Initializer = variance_scaling(1.0 / 3.0, "fan_in", "uniform")
"""Kernel of `torch.nn.Linear` and of a 1x1 `torch.nn.Conv2d`: uniform in +-1/sqrt(fan_in)."""

torch_attention_kernel: Initializer = variance_scaling(0.5, "fan_avg", "uniform")
"""Query, key or value of `torch.nn.MultiheadAttention`: Xavier over the joint (3D, D) matrix."""

BERT_DEVIATION = 0.02

bert_kernel: Initializer = normal(BERT_DEVIATION)
"""Kernels and embeddings of BERT (Devlin et al. 2019, `initializer_range`)."""


def torch_linear_bias(fan_in: int) -> Initializer:
    """Starts a bias like that of `torch.nn.Linear`: uniform in +-1/sqrt(fan_in).

    Args:
        fan_in: number of inputs of the layer.

    Returns:
        The initialiser.
    """
    limit = 1.0 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit, out_sharding=out_sharding)

    return init


def convolution_kernel(kernel_size: int, outputs_per_input: int) -> Initializer:
    """Starts the kernel of a convolution: normal with variance 2 / (k * k * outputs_per_input).

    Sources: Tan and Le 2019, the released initialiser; He et al. 2015 by the outputs, as torchvision starts a ResNet.

    Args:
        kernel_size: side k of the kernel.
        outputs_per_input: how many output channels each input channel feeds, 1 for a depthwise convolution.

    Returns:
        The initialiser.
    """
    return normal(math.sqrt(2.0 / (kernel_size * kernel_size * outputs_per_input)))


def torch_dense(features: int, fan_in: int, dtype: DTypeLike, name: str) -> nn.Dense:
    """Makes a dense layer that starts like `torch.nn.Linear(fan_in, features)`.

    Args:
        features: number of outputs.
        fan_in: number of inputs.
        dtype: of the computation; parameters stay float32.
        name: of the layer in the parameter tree.

    Returns:
        The layer.
    """
    return nn.Dense(
        features,
        dtype=dtype,
        kernel_init=torch_linear_kernel,
        bias_init=torch_linear_bias(fan_in),
        name=name,
    )
