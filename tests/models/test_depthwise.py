"""The implementations of the depthwise convolution are one function, and equal to PyTorch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked

pytest.importorskip("torch")

import torch

from wenlan_jax.convert.reference.torch_brivl import SameConv2d
from wenlan_jax.models.depthwise import depthwise_conv

CHANNELS = 3


@pytest.mark.parametrize("implementation", ["conv", "shift"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("shape", [(7, 8), (6, 5), (2, 1)])
def test_equals_torch_with_gradients(implementation: str, stride: int, kernel_size: int, shape: tuple[int, int]):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *shape, CHANNELS)).astype(np.float32)
    kernel = rng.normal(size=(kernel_size, kernel_size, 1, CHANNELS)).astype(np.float32)
    theirs = SameConv2d(CHANNELS, CHANNELS, kernel_size, stride, groups=CHANNELS, bias=False)
    theirs.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1))
    inputs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = theirs(inputs)
    expected.square().sum().backward()

    def loss(x, kernel):
        y = depthwise_conv(x, kernel, stride, implementation)
        return jnp.sum(jnp.square(y)), y

    (dx, dkernel), y = jax.grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)
    np.testing.assert_allclose(y, expected.detach().permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(dx, inputs.grad.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(dkernel, theirs.weight.grad.permute(2, 3, 1, 0), rtol=1e-5, atol=1e-4)


def test_an_unknown_implementation_is_refused():
    with unchecked(), pytest.raises(ValueError, match="'conv' or 'shift', not 'magic'"):
        depthwise_conv(jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 1, 1)), 1, "magic")
