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

from wenlan_jax.config import sections
from wenlan_jax.core import trees
from wenlan_jax.parallel import mesh as meshes
from wenlan_jax.parallel import partition
from wenlan_jax.parallel.partition import PartitionRule, Split
from wenlan_jax.tasks import experiment
from wenlan_jax.training import setup as runs

Make = Callable[..., experiment.Config]


def make_mesh(replica: int = 1, data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    sizes = sections.MeshConfig(replica=replica, data=data, fsdp=fsdp, tensor=tensor)
    return meshes.create(sizes, jax.devices()[: replica * data * fsdp * tensor])


def leaf(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def specs(tree: Any, rules: list[PartitionRule], mesh: Mesh) -> dict[str, P]:
    return {name: at.spec for name, at in trees.flatten(partition.shardings(tree, mesh, 0, rules)).items()}


def test_the_first_rule_that_matches_holds() -> None:
    tree = {"image": {"kernel": leaf(8, 4), "bias": leaf(8)}, "text": {"kernel": leaf(4, 8)}}
    rules = [
        PartitionRule("bias$", P()),
        PartitionRule("^image/", P("fsdp")),
        PartitionRule("kernel$", P(None, "fsdp")),
    ]
    assert specs(tree, rules, make_mesh(fsdp=4)) == {
        "image/kernel": P("fsdp"),
        "image/bias": P(),
        "text/kernel": P(None, "fsdp"),
    }


def test_every_uncovered_leaf_and_unused_rule_is_named() -> None:
    tree = {"image": {"kernel": leaf(8), "scale": leaf(8)}, "text": {"kernel": leaf(8)}}
    rules = [PartitionRule("kernel$", P()), PartitionRule("^video/", P()), PartitionRule("^sound/", P(), optional=True)]
    with pytest.raises(partition.PartitionError) as error:
        partition.shardings(tree, make_mesh(), 0, rules)
    assert str(error.value).split("\n  ")[1:] == [
        "no rule covers image/scale",
        "no leaf matches the rule ^video/",
    ]


def test_a_rule_hidden_behind_an_earlier_one_counts_as_unused() -> None:
    with pytest.raises(partition.PartitionError, match="no leaf matches the rule kernel"):
        partition.shardings({"kernel": leaf(8)}, make_mesh(), 0, [PartitionRule("", P()), PartitionRule("kernel", P())])


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
    assert partition.spec_of(PartitionRule("", Split()), shape, make_mesh(fsdp=ways), 0) == expected


@pytest.mark.parametrize(
    ("split", "shape", "expected"),
    [
        (-1, (8, 6), P("fsdp", "tensor")),
        (-2, (8, 6), P("tensor", None)),
        (-2, (8, 12), P("tensor", "fsdp")),
        (-1, (30, 8, 6), P(None, "fsdp", "tensor")),  # scanned layers
        (-1, (6,), P("tensor")),  # a bias
        (-1, (8, 5), P("fsdp", None)),  # the outputs do not divide
        (-2, (6,), P()),
        (None, (8, 6), P("fsdp", None)),
    ],
)
def test_layers_are_split_over_tensor_and_the_rest_over_fsdp(
    split: int | None, shape: tuple[int, ...], expected: P
) -> None:
    assert partition.spec_of(PartitionRule("", Split(split)), shape, make_mesh(fsdp=4, tensor=2), 0) == expected


def test_small_leaves_are_not_split() -> None:
    rule, mesh = PartitionRule("", Split(-1)), make_mesh(fsdp=2, tensor=2)
    assert partition.spec_of(rule, (8, 8), mesh, 65) == P()
    assert partition.spec_of(rule, (8, 8), mesh, 64) == P("fsdp", "tensor")


def test_both_products_of_a_pair_are_split_along_the_same_features(tiny: Make) -> None:
    """Column after row: the values between them stay where they are."""
    current = runs.set_up(tiny(mesh__data=4, mesh__tensor=2), jax.devices())
    at = {name: sharding.spec for name, sharding in trees.flatten(current.shardings.params).items()}
    layers = [name.removesuffix("/linear1/kernel") for name in at if name.endswith("/linear1/kernel")]
    assert len(layers) == 3
    for layer in layers:
        columns = [f"{layer}/attention/{name}" for name in ("query", "key", "value")] + [f"{layer}/linear1"]
        for name in columns:
            assert (at[f"{name}/kernel"], at[f"{name}/bias"]) == (P(None, "tensor"), P("tensor")), name
        for name in (f"{layer}/attention/out", f"{layer}/linear2"):
            assert (at[f"{name}/kernel"], at[f"{name}/bias"]) == (P("tensor", None), P()), name


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
        (sections.MeshConfig(), (1, 8, 1, 1)),
        (sections.MeshConfig(replica=2, data=-1, fsdp=2), (2, 2, 2, 1)),
        (sections.MeshConfig(data=2, fsdp=-1), (1, 2, 4, 1)),
        (sections.MeshConfig(replica=-1, data=8), (1, 8, 1, 1)),
        (sections.MeshConfig(replica=2, data=2, fsdp=2), (2, 2, 2, 1)),
        (sections.MeshConfig(data=2, tensor=-1), (1, 2, 1, 4)),
        (sections.MeshConfig(preset="8_gpus"), (1, 1, 8, 1)),
        (sections.MeshConfig(preset="slice"), (1, 1, 8, 1)),
        (sections.MeshConfig(preset="slices"), (1, 1, 8, 1)),
        (sections.MeshConfig(preset="slice_tensor_4"), (1, 1, 2, 4)),
    ],
)
def test_a_mesh_takes_its_sizes_from_the_configuration(config: sections.MeshConfig, expected: tuple[int, ...]) -> None:
    mesh = meshes.create(config)
    assert tuple(mesh.shape.values()) == expected
    assert mesh.axis_names == meshes.AXES


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            sections.MeshConfig(data=4),
            "replica=1 x data=4 x fsdp=1 x tensor=1 is not the 8 devices at hand; set one of",
        ),
        (sections.MeshConfig(data=3, fsdp=-1), "replica=1 x data=3 x fsdp=-1 x tensor=1 is not the 8 devices at hand"),
        (sections.MeshConfig(fsdp=16), "replica=1 x data=-1 x fsdp=16 x tensor=1 is not the 8 devices at hand"),
        (sections.MeshConfig(preset="laptop"), "is not the 8 devices at hand; choose another --config.mesh.preset"),
        (sections.MeshConfig(preset="a_pod"), "mesh.preset: there is no 'a_pod'; known are laptop, 8_gpus"),
    ],
)
def test_a_mesh_that_the_devices_cannot_form_is_refused(config: sections.MeshConfig, message: str) -> None:
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


class Elsewhere:
    """A sharding of a mesh as one of its processes sees it: only some devices are its own."""

    def __init__(self, mesh: Mesh, own: list[int]) -> None:
        self.sharding, self.own = meshes.batch_sharding(mesh), {jax.devices()[number] for number in own}

    def addressable_devices_indices_map(self, shape: tuple[int, ...]) -> dict[Any, Any]:
        whole = self.sharding.devices_indices_map(shape)
        return {device: index for device, index in whole.items() if device in self.own}


@pytest.mark.parametrize(
    ("sizes", "own", "expected"),
    [
        ({"data": 8}, [2, 3], (4, 5, 6, 7)),
        ({"data": 8}, [0, 5], (0, 1, 10, 11)),  # devices that are not side by side
        ({"data": 2, "tensor": 4}, [2, 3], (0, 1, 2, 3, 4, 5, 6, 7)),  # a tensor axis over several processes
        ({"data": 2, "tensor": 4}, [3, 4], tuple(range(16))),
    ],
)
def test_a_process_makes_the_rows_of_its_devices(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], own: list[int], expected: tuple[int, ...]
) -> None:
    mesh = make_mesh(**sizes)
    assert meshes.share(mesh, 16) == tuple(range(16))
    seen = Elsewhere(mesh, own)
    monkeypatch.setattr(meshes, "batch_sharding", lambda mesh: seen)
    assert meshes.share(mesh, 16) == expected
