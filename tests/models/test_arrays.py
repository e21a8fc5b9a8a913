"""Vectors along the last axis."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from wenlan_jax.models.arrays import along_last


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_vector_meets_the_last_axis(rank: int) -> None:
    vector, array = np.arange(3, dtype=np.float32), np.ones((2,) * (rank - 1) + (3,), np.float32)
    found = along_last(jnp.asarray(vector), rank)
    assert found.shape == (1,) * (rank - 1) + (3,)
    np.testing.assert_array_equal(array * found, array * vector)


def test_ranks_are_not_promoted_in_silence() -> None:
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)
