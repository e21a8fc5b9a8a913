"""Sharding rules and meshes: what lies where, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from wenlan_jax import mesh as meshes
from wenlan_jax import partition, schema, trees
from wenlan_jax import run as runs
from wenlan_jax.partition import Largest, Rule

Make = Callable[..., schema.Config]


def make_mesh(replica: int = 1, data: int = 1, fsdp: int = 1) -> Mesh:
    return meshes.create(schema.Mesh(replica, data, fsdp), jax.devices()[: replica * data * fsdp])


def leaf(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def specs(tree: Any, rules: list[Rule], mesh: Mesh) -> dict[str, P]:
    return {name: at.spec for name, at in trees.flatten(partition.shardings(tree, mesh, rules)).items()}


def test_the_first_rule_that_matches_holds() -> None:
    tree = {"image": {"kernel": leaf(8, 4), "bias": leaf(8)}, "text": {"kernel": leaf(4, 8)}}
    rules = [Rule("bias$", P()), Rule("^image/", P("fsdp")), Rule("kernel$", P(None, "fsdp"))]
    assert specs(tree, rules, make_mesh(fsdp=4)) == {
        "image/kernel": P("fsdp"),
        "image/bias": P(),
        "text/kernel": P(None, "fsdp"),
    }


def test_every_uncovered_leaf_and_unused_rule_is_named() -> None:
    tree = {"image": {"kernel": leaf(8), "scale": leaf(8)}, "text": {"kernel": leaf(8)}}
    rules = [Rule("kernel$", P()), Rule("^video/", P()), Rule("^sound/", P(), optional=True)]
    with pytest.raises(partition.PartitionError) as error:
        partition.shardings(tree, make_mesh(), rules)
    assert str(error.value).split("\n  ")[1:] == [
        "no rule covers image/scale",
        "no leaf matches the rule ^video/",
    ]


def test_a_rule_hidden_behind_an_earlier_one_counts_as_unused() -> None:
    with pytest.raises(partition.PartitionError, match="no leaf matches the rule kernel"):
        partition.shardings({"kernel": leaf(8)}, make_mesh(), [Rule("", P()), Rule("kernel", P())])


@pytest.mark.parametrize(
    ("shape", "ways", "expected"),
    [
        ((8, 16), 4, P(None, "fsdp")),
        ((16, 8), 4, P("fsdp", None)),
        ((8, 8), 4, P("fsdp", None)),  # the first of equals
        ((8, 18), 4, P("fsdp", None)),  # the largest does not divide
        ((3, 3, 64, 32), 8, P(None, None, "fsdp", None)),
        ((6, 10), 4, P()),
        ((2,), 4, P()),
        ((0, 8), 4, P(None, "fsdp")),
        ((), 4, P()),
        ((8, 16), 1, P()),
    ],
)
def test_the_largest_dimension_that_divides_is_split(shape: tuple[int, ...], ways: int, expected: P) -> None:
    assert partition.spec_of(Rule("", Largest("fsdp")), shape, make_mesh(fsdp=ways)) == expected


@pytest.mark.parametrize("task", ["brivl", "clip"])
def test_a_train_state_lies_by_its_rules(tiny: Make, task: str) -> None:
    config = tiny(task=task, mesh__data=2, mesh__fsdp=4)
    current = runs.set_up(config, jax.devices())
    shapes, at = trees.flatten(current.shapes), trees.flatten(current.shardings)
    assert shapes.keys() == at.keys()
    split = {name for name, sharding in at.items() if not sharding.is_fully_replicated}
    for name, shape in shapes.items():
        kind, last = name.split("/")[0], name.split("/")[-1]
        if kind == "banks":
            assert at[name].spec == (P(None, meshes.BATCH_AXES) if last in ("keys", "ids") else P())
        elif "batch_stats" in name or kind in ("step", "rng", "skipped"):
            assert name not in split
        else:
            assert (name in split) == any(size and size % 4 == 0 for size in shape.shape), name
    assert any(name.startswith("params/") for name in split)
    assert any(name.startswith("opt_state/") for name in split)
    assert any(name.startswith("momentum/params/") for name in split) == (task == "brivl")
    assert any(name.startswith("banks/") for name in split) == (task == "brivl")


def test_banks_lie_by_rows_over_all_devices(tiny: Make) -> None:
    config = tiny(mesh__replica=2, mesh__data=2, mesh__fsdp=2, train__batch_size=16)
    state = runs.fresh_state(runs.set_up(config, jax.devices()))
    for name in ("image", "text"):
        keys = state.banks[name].keys
        slots, batch, dim = keys.shape
        assert {part.data.shape for part in keys.addressable_shards} == {(slots, batch // 8, dim)}
        starts = {part.index[1].start for part in keys.addressable_shards}
        assert starts == set(range(0, batch, batch // 8))


def test_a_fresh_state_is_the_same_on_any_mesh(tiny: Make) -> None:
    one = runs.fresh_state(runs.set_up(tiny(), jax.devices()[:1]))
    eight = runs.fresh_state(runs.set_up(tiny(mesh__data=2, mesh__fsdp=4), jax.devices()))
    other = trees.flatten(eight)
    for name, value in trees.flatten(one).items():
        np.testing.assert_allclose(value, other[name], rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (schema.Mesh(), (1, 8, 1)),
        (schema.Mesh(2, -1, 2), (2, 2, 2)),
        (schema.Mesh(1, 2, -1), (1, 2, 4)),
        (schema.Mesh(-1, 8, 1), (1, 8, 1)),
        (schema.Mesh(2, 2, 2), (2, 2, 2)),
    ],
)
def test_a_mesh_takes_its_sizes_from_the_configuration(config: schema.Mesh, expected: tuple[int, ...]) -> None:
    mesh = meshes.create(config)
    assert tuple(mesh.shape.values()) == expected
    assert mesh.axis_names == meshes.BATCH_AXES


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (schema.Mesh(1, 4, 1), "replica=1 x data=4 x fsdp=1 is not the 8 devices at hand; set one of"),
        (schema.Mesh(1, 3, -1), "replica=1 x data=3 x fsdp=2 is not the 8 devices at hand"),
        (schema.Mesh(1, -1, 16), "replica=1 x data=0 x fsdp=16 is not the 8 devices at hand"),
    ],
)
def test_a_mesh_that_the_devices_cannot_form_is_refused(config: schema.Mesh, message: str) -> None:
    with pytest.raises(meshes.MeshError, match=message):
        meshes.create(config)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    mesh = make_mesh(2, 2, 2)
    meshes.check_batch(mesh, 16, "train.batch_size")
    with pytest.raises(meshes.MeshError, match=r"train\.batch_size: 12 does not divide over 8 devices; use a multiple"):
        meshes.check_batch(mesh, 12, "train.batch_size")


def test_the_micro_batch_must_divide_over_the_mesh(tiny: Make) -> None:
    config = tiny(mesh__data=8, train__accumulation=2, model__image__batch_norm__group_size=4)
    with pytest.raises(meshes.MeshError, match=r"accumulation: 4 does not divide over 8"):
        runs.set_up(config, jax.devices())


def test_a_batch_lies_by_rows_and_comes_back_whole() -> None:
    mesh = make_mesh(2, 2, 2)
    rows = np.arange(48).reshape(16, 3)
    array = meshes.to_devices(mesh, {"id": rows})["id"]
    assert array.sharding.is_equivalent_to(NamedSharding(mesh, P(meshes.BATCH_AXES)), 2)
    for number, device in enumerate(mesh.devices.flat):
        (part,) = [shard.data for shard in array.addressable_shards if shard.device == device]
        np.testing.assert_array_equal(part, rows[2 * number : 2 * number + 2])
    np.testing.assert_array_equal(meshes.to_host(array), rows)
