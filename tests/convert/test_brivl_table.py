"""The official key layout: what the table covers, ignores and regenerates."""

from __future__ import annotations

import numpy as np
import official_brivl
import pytest

from wenlan_jax.convert.brivl import MOMENTUM_TOWERS, QUERY_TOWERS, brivl_table, with_batch_counters
from wenlan_jax.convert.rules import ConversionError, to_flax, to_torch


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    return official_brivl.arrays("weights")


def implied_template(state: dict[str, np.ndarray], towers: dict[str, str]) -> dict[str, np.ndarray]:
    """The Flax leaves that a state dict implies, found without a model: every key through its first rule."""
    template, table = {}, brivl_table(towers)
    for key, value in state.items():
        match = table.of_torch(key)
        if match is None:
            assert table.reason_to_ignore(key), key
            continue
        rule, names = match
        paths = [path.format(**names) for path in rule.flax]
        template.update(zip(paths, rule.layout.to_flax(value), strict=True))
    return template


def test_the_official_file_goes_there_and_back_without_loss(weights: dict[str, np.ndarray]):
    result = to_flax(weights, brivl_table(), implied_template(weights, QUERY_TOWERS))
    back = with_batch_counters(to_torch(result.leaves, brivl_table()))
    lost = set(weights) - set(back)
    assert all("classifier" in key or "pooler" in key for key in lost)
    assert set(back) <= set(weights)
    for key, value in back.items():
        assert value.dtype == weights[key].dtype
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value, weights[key])


def test_every_trained_leaf_of_the_released_code_is_covered(weights: dict[str, np.ndarray]):
    trained = official_brivl.facts()["trainable"]
    exported = to_torch(implied_template(weights, QUERY_TOWERS), brivl_table())
    assert set(trained) <= set(exported)


def test_momentum_towers_are_read_when_asked_for_and_ignored_otherwise(weights: dict[str, np.ndarray]):
    renamed = {"imgencoder": "imgencoder_mom", "textencoder": "textencoder_mom"}
    both = dict(weights)
    for key, value in weights.items():
        tower, rest = key.split(".", 1)
        both[f"{renamed[tower]}.{rest}"] = value + np.ones((), value.dtype)
    everything = {**QUERY_TOWERS, **MOMENTUM_TOWERS}
    leaves = to_flax(both, brivl_table(everything), implied_template(both, everything)).leaves
    name = "params/projection/fc1/bias"
    np.testing.assert_array_equal(leaves[f"image_momentum/{name}"], leaves[f"image/{name}"] + np.float16(1))
    query_only = to_flax(both, brivl_table(), implied_template(weights, QUERY_TOWERS))
    assert set(query_only.ignored) >= {key for key in both if "_mom." in key}


def test_an_unknown_key_under_a_tower_is_refused():
    with pytest.raises(ConversionError, match=r"imgencoder\.learnable\.extra\.weight"):
        to_flax({"imgencoder.learnable.extra.weight": np.zeros(2)}, brivl_table(), {})
