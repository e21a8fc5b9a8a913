"""The moving average against its closed form."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from wenlan_jax.core import momentum


def test_many_updates_equal_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    m, steps = 0.9, 30
    first, queries = rng.normal(size=5).astype(np.float32), rng.normal(size=(steps, 5)).astype(np.float32)
    keys = {"w": jnp.asarray(first)}
    for query in queries:
        keys = momentum.update(keys, {"w": jnp.asarray(query)}, m)
    weights = m ** np.arange(steps - 1, -1, -1, dtype=np.float64)
    expected = m**steps * first + (1 - m) * weights @ queries
    np.testing.assert_allclose(keys["w"], expected, rtol=1e-5)


def test_float32_average_moves_at_high_momentum() -> None:
    keys = {"w": jnp.ones(1, jnp.float32)}
    for _ in range(100):
        keys = momentum.update(keys, {"w": jnp.full(1, 1.01, jnp.float32)}, 0.999)
    expected = 1.01 - 0.01 * 0.999**100
    np.testing.assert_allclose(keys["w"] - 1.0, expected - 1.0, rtol=0.01)
