"""The rule engine on hand-made tables: both directions, layouts, scanned layers, and its errors."""

from __future__ import annotations

import numpy as np
import pytest

from wenlan_jax.convert.rules import (
    CONVOLUTION,
    LINEAR,
    POINTWISE,
    ConversionError,
    Ignore,
    WeightRule,
    WeightTable,
    flatten,
    split_rows,
    to_flax,
    to_torch,
    unflatten,
)

QKV = tuple(f"net/layers_{{i}}/{name}/kernel" for name in "qkv")
TABLE = WeightTable(
    (
        WeightRule("stem.weight", ("net/stem/kernel",), CONVOLUTION),
        WeightRule("head.weight", ("net/head/kernel",), POINTWISE),
        WeightRule("layer.{i}.out.weight", ("net/layers_{i}/out/kernel",), LINEAR),
        WeightRule("layer.{i}.joint", QKV, split_rows(3)),
    ),
    (Ignore(r"old\..*", "not used"),),
)


def torch_state(layers: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    state = {"stem.weight": rng.normal(size=(4, 3, 2, 5)), "head.weight": rng.normal(size=(6, 4, 1, 1))}
    for i in range(layers):
        state[f"layer.{i}.out.weight"] = rng.normal(size=(2, 4))
        state[f"layer.{i}.joint"] = rng.normal(size=(6, 4))
    return state


def template(layers: int = 3) -> dict:
    tree = {"stem": {"kernel": np.zeros((2, 5, 3, 4))}, "head": {"kernel": np.zeros((4, 6))}}
    for i in range(layers):
        names = {name: {"kernel": np.zeros((4, 2))} for name in ("q", "k", "v", "out")}
        tree[f"layers_{i}"] = names
    return {"net": tree}


def test_both_directions_are_inverse_and_layouts_are_the_stated_ones():
    state = torch_state()
    result = to_flax({**state, "old.thing": np.zeros(2)}, TABLE, template())
    assert result.ignored == {"old.thing": "not used"}
    np.testing.assert_array_equal(result.leaves["net/layers_1/k/kernel"], state["layer.1.joint"][2:4].T)
    np.testing.assert_array_equal(result.leaves["net/stem/kernel"][1, 2, 0, 3], state["stem.weight"][3, 0, 1, 2])
    back = to_torch(unflatten(result.leaves), TABLE)
    assert set(back) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)


def test_scanned_layers_are_stacked_in_order_and_unstacked():
    state, shapes = torch_state(), flatten(template())
    scanned = {path: leaf for path, leaf in shapes.items() if "layers_" not in path}
    for name in ("q", "k", "v", "out"):
        scanned[f"net/layers_0_1/{name}/kernel"] = np.zeros((2, 4, 2))
        scanned[f"net/layers_2_2/{name}/kernel"] = np.zeros((1, 4, 2))
    leaves = to_flax(state, TABLE, scanned).leaves
    plain = to_flax(state, TABLE, template()).leaves
    expected = np.stack([plain["net/layers_0/q/kernel"], plain["net/layers_1/q/kernel"]])
    np.testing.assert_array_equal(leaves["net/layers_0_1/q/kernel"], expected)
    back = to_torch(leaves, TABLE)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)


def test_what_keeps_its_axes_is_not_copied_and_what_was_copied_is_told():
    table = WeightTable((WeightRule("kept", ("net/kept",)), *TABLE.rules), TABLE.ignored)
    state = {"kept": np.ones((3, 2)), **torch_state()}
    expected = template()
    expected["net"]["kept"] = np.zeros((3, 2))
    finished: list[np.ndarray] = []
    leaves = to_flax(state, table, expected, finished.append).leaves
    assert leaves["net/kept"] is state["kept"]
    assert all(leaf.flags.c_contiguous for leaf in leaves.values())
    for key, array in state.items():
        parts = sum(part.size for part in finished if np.shares_memory(part, array))
        assert parts == (0 if key == "kept" else array.size), key


def test_more_than_ten_layers_keep_their_numbers():
    state = torch_state(12)
    leaves = to_flax(state, TABLE, template(12)).leaves
    np.testing.assert_array_equal(leaves["net/layers_11/out/kernel"], state["layer.11.out.weight"].T)


def test_every_uncovered_leaf_is_named_in_one_error():
    state = torch_state()
    del state["layer.2.joint"]
    state["mystery"] = np.zeros(3)
    with pytest.raises(ConversionError) as error:
        to_flax(state, TABLE, template())
    for part in ("mystery (3,)", "net/layers_2/q/kernel (4, 2) has no PyTorch key", "4 faults"):
        assert part in str(error.value)


def test_a_wrong_shape_names_the_leaf_and_both_shapes():
    state = {**torch_state(), "head.weight": np.zeros((7, 4, 1, 1))}
    with pytest.raises(ConversionError, match=r"net/head/kernel has shape \(4, 6\), but head.weight gives \(4, 7\)"):
        to_flax(state, TABLE, template())


def test_wrong_axes_are_named():
    with pytest.raises(ConversionError, match=r"head.weight \(7, 4\) does not have the axes of net/head/kernel"):
        to_flax({**torch_state(), "head.weight": np.zeros((7, 4))}, TABLE, template())


def test_a_key_that_the_model_has_no_place_for_is_named():
    state = {**torch_state(), "layer.3.out.weight": np.zeros((2, 4))}
    with pytest.raises(ConversionError, match=r"layer\.3\.out\.weight gives net/layers_3/out/kernel"):
        to_flax(state, TABLE, template())


def test_export_names_uncovered_and_missing_leaves():
    tree = template()
    del tree["net"]["layers_0"]["v"]
    tree["net"]["new"] = {"kernel": np.zeros(2)}
    with pytest.raises(ConversionError) as error:
        to_torch(tree, TABLE)
    assert "net/new/kernel (2,) is covered by no rule" in str(error.value)
    assert "layer.0.joint also needs the Flax leaves net/layers_0/v/kernel" in str(error.value)
