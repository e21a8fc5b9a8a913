"""Layers shared by the networks: batch normalisation with declared groups, L2 normalisation, masked mean.

Index glossary: b batch, g groups of the batch, n examples of a group, h and w places of a map, c channels.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from wenlan_jax.models.arrays import Array, along_last

L2_EPSILON = 1e-12
"""Smallest norm a vector is divided by, as in `torch.nn.functional.normalize`."""

BatchNormMode = Literal["batch", "group", "frozen"]


def l2_normalize(x: Float[Array, "... width"]) -> Float[Array, "... width"]:
    """Divides vectors of the last axis by their L2 norm.

    Args:
        x: vectors, of any float type.

    Returns:
        Unit vectors, float32; zero stays zero, with a finite gradient.
    """
    x = x.astype(jnp.float32)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, L2_EPSILON**2))


def masked_mean(
    x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"]
) -> Float[Array, "batch width"]:
    """Averages the tokens whose mask is true.

    Args:
        x: tokens, of any float type.
        mask: which tokens count.

    Returns:
        The means, float32; zero for a row without tokens that count.
    """
    weights = mask.astype(jnp.float32)
    total = jnp.einsum("btw,bt->bw", x.astype(jnp.float32), weights)
    return total / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1.0)


@dataclasses.dataclass(frozen=True)
class BatchNormOptions:
    """How the batch normalisation layers of one network behave in training.

    Attributes:
        mode: `batch` uses the statistics of the whole batch, `group` those of each group of `group_size`
            consecutive examples, `frozen` the running statistics.
        group_size: examples per group; read in mode `group` only. The released BriVL code has one group per
            device.
        momentum: weight of the new statistics in the running ones, PyTorch's convention: new = (1 - m) old + m
            seen.
        eps: added to the variance.
        frozen_paths: regular expressions, searched in the path of the layer's scale, after `scope`
            (`image/backbone/blocks_0_0/bn1/scale` with the scope `image/`): the patterns that freeze parameters
            serve as they are. A layer that matches one always uses, and never updates, its running statistics. The
            released code did not do this: its frozen layers went on updating (configs/PAPERS.md), which `()`
            reproduces.
        scope: what stands before the tower's own paths in the patterns.
    """

    mode: BatchNormMode
    group_size: int
    momentum: float
    eps: float
    frozen_paths: tuple[str, ...]
    scope: str


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, in groups that no device layout changes.

    Statistics are float32. Parameters `scale` and `bias`, running statistics `mean` and `var` in the collection
    `batch_stats`; `var` is unbiased, as in PyTorch. With several groups the running statistics take the mean over the
    groups, so averaging the updated collection over micro-batches is exact. They are left alone when the collection is
    not mutable.

    Attributes:
        options: the groups, and which statistics are used.
        dtype: of the result.
    """

    options: BatchNormOptions
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *places channels"], train: bool
    ) -> Float[Array, "batch *places channels"]:
        """Normalises every channel.

        Args:
            x: of any float type.
            train: whether statistics of the input are used; else, and in frozen layers, the running ones.

        Returns:
            An array of the same shape, in `dtype`.

        Raises:
            ValueError: if the batch does not divide into groups, or a group holds a single value per channel.
        """
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if not train or self.is_frozen():
            factor = jax.lax.rsqrt(var.value + self.options.eps) * scale
            centre, factor, bias = (along_last(vector, x.ndim) for vector in (mean.value, factor, bias))
            return ((x.astype(jnp.float32) - centre) * factor + bias).astype(self.dtype)

        groups, count = self._groups(x)
        grouped = x.reshape(groups, -1, *x.shape[1:])
        y, seen_mean, seen_var = normalize_groups(grouped, scale, bias, self.options.eps)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            keep, take = 1.0 - self.options.momentum, self.options.momentum
            mean.value = keep * mean.value + take * jnp.mean(seen_mean, axis=0)
            var.value = keep * var.value + take * jnp.mean(seen_var, axis=0) * (count / (count - 1))
        return y.reshape(x.shape).astype(self.dtype)

    def is_frozen(self) -> bool:
        """Whether this layer keeps its running statistics, by mode or by path."""
        path = self.options.scope + "/".join((*self.path, "scale"))
        return self.options.mode == "frozen" or any(re.search(p, path) for p in self.options.frozen_paths)

    def _groups(self, x: Array) -> tuple[int, int]:
        """The number of groups, and how many values of a channel one of them holds."""
        size = self.options.group_size if self.options.mode == "group" else x.shape[0]
        if size < 1 or x.shape[0] % size:
            raise ValueError(
                f"BatchNorm {'/'.join(self.path)}: a batch of {x.shape[0]} does not divide into groups of"
                f" {size}; choose a batch size that is a multiple of the group size."
            )
        groups = x.shape[0] // size
        count = x.size // (groups * x.shape[-1])
        if count < 2:
            raise ValueError(
                f"BatchNorm {'/'.join(self.path)}: a group of {size} in shape {x.shape} holds one value"
                " per channel, so its variance is undefined; use larger groups or images, or mode 'frozen'."
            )
        return groups, count


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_groups(
    x: Float[Array, "g n *places c"], scale: Array, bias: Array, eps: float
) -> tuple[Float[Array, "g n *places c"], Float[Array, "g c"], Float[Array, "g c"]]:
    """Normalises every group by its own statistics.

    Gradients flow through the first result only, by the closed form of Ioffe and Szegedy 2015; the backward
    pass then keeps `x` alone instead of its centred and scaled copies. The sums are taken in one pass over
    `x`, centred on the first value of each group and channel. That value is itself one of the count values,
    so its squared distance from the mean is at most count * variance: unlike E[x^2] - E[x]^2, the rounding
    error does not grow with the mean.

    Args:
        x: values, by group.
        scale: one factor a channel.
        bias: one summand a channel.
        eps: added to the variance.

    Returns:
        The normalised values, and each group's mean and biased variance.
    """
    return _normalize_forward(x, scale, bias, eps)[0]


def _normalize_forward(x: Array, scale: Array, bias: Array, eps: float) -> tuple[tuple[Array, Array, Array], tuple]:
    axes = tuple(range(1, x.ndim - 1))
    wide = x.astype(jnp.float32)
    shift = wide[(slice(None), *(slice(1),) * len(axes))]
    centred = wide - shift
    offset = jnp.mean(centred, axes, keepdims=True)
    var = jnp.maximum(jnp.mean(jnp.square(centred), axes, keepdims=True) - jnp.square(offset), 0.0)
    mean = shift + offset
    inverse = jax.lax.rsqrt(var + eps)
    y = (wide - mean) * (inverse * along_last(scale, x.ndim)) + along_last(bias, x.ndim)
    return (y.astype(x.dtype), jnp.squeeze(mean, axes), jnp.squeeze(var, axes)), (x, mean, inverse, scale)


def _normalize_backward(eps: float, saved: tuple, cotangents: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    del eps
    x, mean, inverse, scale = saved
    dy = cotangents[0].astype(jnp.float32)
    axes = tuple(range(1, x.ndim - 1))
    count = x.size // (x.shape[0] * x.shape[-1])
    unit = (x.astype(jnp.float32) - mean) * inverse
    bias_gradient = jnp.sum(dy, axes, keepdims=True)
    scale_gradient = jnp.sum(dy * unit, axes, keepdims=True)
    dx = (along_last(scale, x.ndim) * inverse) * (dy - bias_gradient / count - unit * (scale_gradient / count))
    return (
        dx.astype(x.dtype),
        scale_gradient.reshape(-1, x.shape[-1]).sum(0),
        bias_gradient.reshape(-1, x.shape[-1]).sum(0),
    )


normalize_groups.defvjp(_normalize_forward, _normalize_backward)
