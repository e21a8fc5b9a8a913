"""The LayerNorm of all Transformers: its variance is taken about the mean, in float32, whatever it is given."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wenlan_jax.models.transformer import layer_norm

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_a_large_mean_does_not_drown_the_variance(eps: float) -> None:
    """E[x^2] - E[x]^2 in float32 would be off by thousandths at a mean of 100."""
    x = (100 + np.random.default_rng(0).normal(size=(16, 64))).astype(np.float32)
    norm = layer_norm(eps, jnp.dtype("float32"), "norm")
    found = norm.apply(norm.init(jax.random.key(0), x), x)
    expected = torch.nn.functional.layer_norm(torch.tensor(x).double(), (64,), eps=eps).numpy()
    np.testing.assert_allclose(found, expected, atol=5e-5)
    quick = (x - x.mean(-1, keepdims=True)) / np.sqrt((x**2).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2)
    assert np.abs(quick - expected).max() > 5e-4, "the inputs show the difference"
