"""1x1 convolutions as matrix products over the channels."""

from __future__ import annotations

import jax
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Float

from wenlan_jax.models.arrays import Array
from wenlan_jax.models.initializers import convolution_kernel


def pointwise_conv(features: int, dtype: DTypeLike, name: str, use_bias: bool = False) -> nn.Dense:
    """Makes a 1x1 convolution as a matrix product over the channels; its kernel is (inputs, features).

    Args:
        features: output channels.
        dtype: of the computation.
        name: of the layer in the parameter tree.
        use_bias: whether a bias is added.

    Returns:
        The layer.
    """
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=convolution_kernel(1, features),
        dot_general=_pointwise_product,
        name=name,
    )


def _pointwise_product(x: Array, kernel: Array, dimensions: object, precision: object = None) -> Array:
    """The `dot_general` of a 1x1 convolution: the last axis of `x` with the first of `kernel`."""
    del dimensions, precision  # always these, and the default
    return _product(x, kernel)


@jax.custom_vjp
def _product(x: Float[Array, "*places inputs"], kernel: Float[Array, "inputs outputs"]) -> Array:
    return x @ kernel


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _product_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """The kernel's gradient with the narrower side on the left: XLA's CPU backend copies the left side transposed.

    Widening and narrowing convolutions differ by a factor of 6, so this is most of the copying.
    """
    x, kernel = saved
    inputs, outputs = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    gradient = inputs.T @ outputs if inputs.shape[1] <= outputs.shape[1] else (outputs.T @ inputs).T
    return dy @ kernel.T, gradient


_product.defvjp(_product_forward, _product_backward)
