"""The post-norm transformer layer, stacks of it, and BriVL's encoder over region or word tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from wenlan_jax.models.arrays import Array
from wenlan_jax.models.initializers import torch_attention_kernel, torch_linear_bias, torch_linear_kernel
from wenlan_jax.models.placement import inner, rows

Activation = Callable[[jax.Array], jax.Array]

ENCODER_EPSILON = 1e-5
"""LayerNorm epsilon of `torch.nn.TransformerEncoderLayer`."""

INTERMEDIATES = "intermediates"
"""The collection of what a model tells about its insides; nothing is kept for a caller who does not ask for it."""

WEIGHTS = "weights"
"""Name of the attention weights among the intermediates of an `Attention`."""


def layer_norm(eps: float, dtype: DTypeLike, name: str | None) -> nn.LayerNorm:
    """Makes a LayerNorm whose statistics are float32 and whose variance is taken about the mean.

    Args:
        eps: added to the variance.
        dtype: of the result.
        name: of the layer in the parameter tree; None inside a `setup`, where the attribute names it.

    Returns:
        The layer.
    """
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


class Attention(nn.Module):
    """Multi-head self-attention with separate query, key, value and `out` projections of the input's width.

    The softmax is float32. Who makes the collection `intermediates` mutable finds there the `weights` of each call
    before dropout, float32 (batch, heads, queries, keys); see `attention_weights`.

    Attributes:
        heads: attention heads; they must divide the width.
        dropout: on the attention weights.
        dtype: of the computation.
        attention_init: initialiser of query, key and value kernels.
        kernel_init: initialiser of the output kernel.
        biases: whether query, key and value have a bias.
    """

    heads: int
    dropout: float
    dtype: DTypeLike
    attention_init: Initializer
    kernel_init: Initializer
    biases: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], key_mask: Bool[Array, "batch tokens"] | None, train: bool
    ) -> Float[Array, "batch tokens width"]:
        """Lets tokens attend to each other.

        Args:
            x: tokens.
            key_mask: true where a token may be attended to; None for everywhere. A row without any such token attends
                to all alike, so its result is finite.
            train: turns on dropout (stream `dropout`).

        Returns:
            The attended tokens, in `dtype`.

        Raises:
            ValueError: if the width does not divide into the heads.
        """
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"Attention: a width of {width} does not divide into {self.heads} heads.")

        def project(name: str) -> Array:
            y = nn.Dense(width, self.biases, dtype=self.dtype, kernel_init=self.attention_init, name=name)(x)
            return inner(y.reshape(*x.shape[:2], self.heads, width // self.heads))

        query, key, value = project("query"), project("key"), project("value")
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        logits = logits / math.sqrt(width // self.heads)
        if key_mask is not None:
            logits = jnp.where(key_mask[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, axis=-1)
        self.sow(INTERMEDIATES, WEIGHTS, weights)
        weights = nn.Dropout(self.dropout)(weights.astype(self.dtype), deterministic=not train)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        return nn.Dense(width, dtype=self.dtype, kernel_init=self.kernel_init, name="out")(mixed)


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward network, each followed by dropout, the residual sum and LayerNorm (post-norm).

    Attributes:
        heads: attention heads.
        mlp_width: hidden width of the feed-forward network.
        activation: of the feed-forward network.
        eps: of both LayerNorms.
        dropout: after either part.
        attention_dropout: on the attention weights.
        mlp_dropout: after the activation.
        dtype: of the computation.
        attention_init: initialiser of query, key and value kernels.
        kernel_init: initialiser of the other kernels.
        bias_init: makes the initialiser of a feed-forward bias from the fan-in of its kernel.
    """

    heads: int
    mlp_width: int
    activation: Activation
    eps: float
    dropout: float
    attention_dropout: float
    mlp_dropout: float
    dtype: DTypeLike
    attention_init: Initializer
    kernel_init: Initializer
    bias_init: Callable[[int], Initializer]

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], key_mask: Bool[Array, "batch tokens"] | None, train: bool
    ) -> Float[Array, "batch tokens width"]:
        def drop(y: Array, rate: float) -> Array:
            return nn.Dropout(rate)(y, deterministic=not train)

        attention = Attention(
            self.heads,
            self.attention_dropout,
            self.dtype,
            self.attention_init,
            self.kernel_init,
            name="attention",
        )
        x = x + drop(attention(x, key_mask, train), self.dropout)
        x = rows(layer_norm(self.eps, self.dtype, "norm1")(x))
        hidden = self._dense(self.mlp_width, x.shape[-1], "linear1")(x)
        hidden = inner(drop(self.activation(hidden), self.mlp_dropout))
        x = x + drop(self._dense(x.shape[-1], self.mlp_width, "linear2")(hidden), self.dropout)
        return rows(layer_norm(self.eps, self.dtype, "norm2")(x))

    def _dense(self, features: int, fan_in: int, name: str) -> nn.Dense:
        return nn.Dense(
            features,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init(fan_in),
            name=name,
        )


@dataclasses.dataclass(frozen=True)
class LayerStack:
    """How a stack of equal layers is laid out and run.

    Attributes:
        depth: number of layers.
        scan_segments: empty, and the layers are named `layers_0`, `layers_1`, ... With segments such as (20, 4)
            each is one scan, named by its first and last layer (`layers_0_19`, `layers_20_23`), whose parameters
            have a leading layer axis: compilation time no longer grows with depth, and frozen and trained layers
            stay separate leaves.
        remat: recompute each layer in the backward pass instead of keeping its activations.
    """

    depth: int
    scan_segments: tuple[int, ...]
    remat: bool


def apply_layers(
    make_layer: Callable[[str], nn.Module],
    x: Float[Array, "batch tokens width"],
    key_mask: Bool[Array, "batch tokens"] | None,
    stack: LayerStack,
    train: bool,
) -> Float[Array, "batch tokens width"]:
    """Runs a stack of layers; call it inside a compact method.

    Args:
        make_layer: makes the layer of a name, called as a `TransformerLayer` is.
        x: tokens.
        key_mask: true where a token may be attended to; None for everywhere.
        stack: depth, scans and rematerialisation.
        train: turns on dropout.

    Returns:
        The tokens after the last layer.

    Raises:
        ValueError: if the scanned segments are not positive or do not add up to the depth.
    """

    def step(layer: nn.Module, carry: Array, _: None) -> tuple[Array, None]:
        return layer(carry, key_mask, train), None

    segments = stack.scan_segments
    if stack.remat:
        step = nn.remat(step, prevent_cse=not segments)
    if not segments:
        for index in range(stack.depth):
            x, _ = step(make_layer(f"layers_{index}"), x, None)
        return x
    if sum(segments) != stack.depth or min(segments) < 1:
        raise ValueError(f"scan_segments {segments} must be positive and add up to the depth, {stack.depth}.")
    start = 0
    for length in segments:
        scan = nn.scan(
            step,
            variable_axes={"params": 0, INTERMEDIATES: 0},
            split_rngs={"params": True, "dropout": True},
            length=length,
        )
        x, _ = scan(make_layer(f"layers_{start}_{start + length - 1}"), x, None)
        start += length
    return x


def attention_weights(intermediates: Mapping[str, Any]) -> Float[Array, "layers batch heads tokens tokens"]:
    """Collects the attention weights of a stack of layers, which may be scanned.

    Args:
        intermediates: the collection of the module that called `apply_layers`, made mutable in one call of it.

    Returns:
        The weights, float32, first layer first. Rows are queries, columns are keys; rows of padding mean nothing.
    """
    layers = {int(name.split("_")[1]): name for name in intermediates if name.startswith("layers_")}
    found = []
    for _, name in sorted(layers.items()):
        (weights,) = intermediates[name]["attention"][WEIGHTS]
        found.append(weights if weights.ndim == 5 else weights[None])
    return jnp.concatenate(found)


class TransformerEncoder(nn.Module):
    """BriVL's self-attention over the tokens of one modality: post-norm layers with ReLU, no position embedding.

    Equal to `torch.nn.TransformerEncoder` without a final norm (configs/PAPERS.md, image tower).

    Attributes:
        depth: number of layers, 4 in the released models.
        heads: attention heads, 4 in the released models.
        mlp_width: hidden width of the feed-forward networks, 2048 in the released models.
        dropout: everywhere, .1 in the released models.
        dtype: of the computation.
        scan_segments: see `LayerStack`.
        remat: see `LayerStack`.
    """

    depth: int
    heads: int
    mlp_width: int
    dropout: float
    dtype: DTypeLike
    scan_segments: tuple[int, ...]
    remat: bool

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"], train: bool
    ) -> Float[Array, "batch tokens width"]:
        """Encodes tokens.

        Args:
            tokens: region or word tokens, of any float type.
            mask: true for valid tokens; the others are no keys but do get a (finite) result.
            train: turns on dropout (stream `dropout`).

        Returns:
            The encoded tokens, in `dtype`.
        """

        def make_layer(name: str) -> TransformerLayer:
            return TransformerLayer(
                heads=self.heads,
                mlp_width=self.mlp_width,
                activation=nn.relu,
                eps=ENCODER_EPSILON,
                dropout=self.dropout,
                attention_dropout=self.dropout,
                mlp_dropout=self.dropout,
                dtype=self.dtype,
                attention_init=torch_attention_kernel,
                kernel_init=torch_linear_kernel,
                bias_init=torch_linear_bias,
                name=name,
            )

        stack = LayerStack(self.depth, self.scan_segments, self.remat)
        return apply_layers(make_layer, tokens.astype(self.dtype), mask, stack, train)
